"""Metrics of a custom task: distances, measures against labels, functions of a user's own."""
