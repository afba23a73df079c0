"""Pages, and beside each its JSON twin under /api."""
