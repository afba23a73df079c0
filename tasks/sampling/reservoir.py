"""The reservoir, where sampling looks for it; profiles hold one too, so it lives below the stages (ADR 17)."""

from tasks.profiles.reservoir import DistinctCount, Entry, Reservoir, uniform

__all__ = ["DistinctCount", "Entry", "Reservoir", "uniform"]
