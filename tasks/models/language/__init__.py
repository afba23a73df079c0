"""Causal language models: the graph with its cache outside, and what it reads."""
