"""Many layers, groups or features at once: which of them may be called out together."""

from __future__ import annotations

from collections.abc import Mapping
from math import log


def e_bh(log_values: Mapping[str, float], windows: float) -> frozenset[str]:
    """Pick by e-BH: the k largest e-values with e >= windows * count / k, for the largest such k.

    Wang and Ramdas, "False discovery rate control with e-values" (2022), at the level 1 / windows,
    under any dependence. Whenever it picks anything, the mean of all e-values is at least
    `windows`: with e-detectors, whose mean is an e-detector, the first pick therefore comes after
    `windows` looks or more on average while nothing has changed.
    """
    ranked = sorted(log_values, key=lambda name: -log_values[name])
    base = log(windows) + log(max(len(ranked), 1))
    passed = [
        place for place, name in enumerate(ranked, start=1) if log_values[name] >= base - log(place)
    ]
    return frozenset(ranked[: max(passed, default=0)])


def threshold(windows: float, count: int) -> float:
    """Return the log e-value that one stream among `count` needs when no other helps it."""
    return log(windows) + log(max(count, 1))
