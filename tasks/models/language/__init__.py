"""Causal language models: the graph with its cache outside, generation, and scores."""
