"""From a module of torch to a graph: traced, or one of its layers repeated."""
