"""Champions, brought to servers that people run already."""
