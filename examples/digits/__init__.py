"""An image classifier whose activation scales go stale when the exposure of its input moves."""
