"""Who may reach what this workspace serves.

There are one secret, sessions that follow from it, and a guard at every port.
"""
