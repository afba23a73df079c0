"""How many observed rows training a site takes; apart from torch, which takes a second to load."""

HELD_OUT = 4
"""One row in so many is held out of training and decides which step's state is kept."""
LEAST_ROWS = 2 * HELD_OUT
"""Rows below which a site is not trained."""
