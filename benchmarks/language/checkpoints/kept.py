"""The same loop with the linear layers whose values drift most in floating point."""

from __future__ import annotations

from benchmarks.harness.table import Goal, ResultTable
from benchmarks.language.checkpoints.one_loop import TITLE, walk

KEEP = "down_proj"


def measure(quick: bool) -> ResultTable:
    """Register the model, and let maintenance meet three days."""
    rows, notes = walk(quick, KEEP)
    goals = [
        Goal("perplexity ratio where it is calibrated", 1.03, rows[1].home, "at most"),
        Goal("the same of Japanese, stale", 1.5, rows[2].away, "at most"),
    ]
    return ResultTable("llm-loop-kept", f"{TITLE}; {KEEP} kept", rows, goals, notes)
