"""Causal language models: the graph with its cache as inputs and outputs, generation on an engine, and scores."""
