"""A generated program and what judges it: two processes that share no object."""
