"""Large weights in files that are named by their digests, beside the graphs that read them."""
