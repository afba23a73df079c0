"""The control: is full precision itself still right? Where it is not, no scale can help, only retraining."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.drift.intervals import mean_interval
from tasks.records import Finding, Health, LensReading

MINIMUM = 20
"""Labelled cases."""


def control_lens(
    correct: NDArray[np.floating],
    *,
    metric: str,
    floor: float | None,
    minimum: int = MINIMUM,
    alpha: float = 0.05,
    seed: int = 0,
) -> LensReading:
    """Judge full precision's scores [N] (0/1, or recall) on labelled cases like the traffic's.

    Degraded when the whole confidence interval of the mean lies below the floor; inconclusive without a floor or
    with fewer than `minimum` cases.
    """
    values = np.asarray(correct, np.float64)
    if floor is None:
        return _inconclusive(len(values), 0.0, "the spec sets no floor for full precision (control): it was not judged")
    if len(values) < max(minimum, 1):
        text = f"{len(values)} labelled cases: {minimum} are needed to judge full precision"
        return _inconclusive(len(values), floor, text)
    if not np.isfinite(values).all():
        text = f"full precision gave NaN or infinite {metric} on {int((~np.isfinite(values)).sum())} labelled cases"
        return LensReading("control", Health.DEGRADED, (Finding(metric, 0.0, floor, True, text),), len(values))
    interval = mean_interval(values, alpha=alpha, seed=seed)
    degraded = interval.high < floor
    text = (
        f"full precision's {metric} is {interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f}) "
        f"on {len(values)} labelled cases; at least {floor:g} is wanted"
    )
    finding = Finding(metric, interval.value, floor, degraded, text)
    return LensReading("control", Health.DEGRADED if degraded else Health.FINE, (finding,), len(values))


def _inconclusive(count: int, floor: float, text: str) -> LensReading:
    return LensReading("control", Health.INCONCLUSIVE, (Finding("control", 0.0, floor, False, text),), count)
