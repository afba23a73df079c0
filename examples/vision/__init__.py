"""Coloured shapes with captions, and a small CLIP that puts both into one space."""
