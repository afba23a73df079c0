"""Quantized checkpoints read one decoder layer at a time, beside full precision."""
