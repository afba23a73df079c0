"""Served language models, and libraries that generate."""
