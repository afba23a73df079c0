"""Faults on purpose: what is served after kills, races, bad stores and lost databases."""
