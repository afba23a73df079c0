"""The control: is full precision itself still right? Otherwise only retraining can help."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.drift.evidence import Alarms, Evidence, needed
from tasks.drift.formatting import power_of_ten
from tasks.drift.statistics.betting import log_capitals
from tasks.drift.statistics.intervals import mean_interval
from tasks.drift.statistics.streams import Increment, Stream
from tasks.records import DetectorResult, Finding, Health

MINIMUM = 20
"""Labelled cases."""
LIVE = "labelled requests"
"""The stream of labelled live requests: new ones in every window, so evidence adds up."""


def control_increments(correct: NDArray[np.floating], floor: float) -> dict[str, Increment]:
    """Return what scores [N] of labelled requests not counted before add."""
    values = np.asarray(correct, np.float64)
    if not np.isfinite(values).all():
        return {}
    return {
        LIVE: Increment(
            f"mean >= {floor:g}", log_capitals(values, floor), len(values), float(values.sum())
        )
    }


def judge_control(
    correct: NDArray[np.floating],
    *,
    metric: str,
    floor: float | None,
    minimum: int = MINIMUM,
    alpha: float = 0.05,
    seed: int = 0,
    evidence: Evidence | None = None,
    rules: Alarms | None = None,
) -> DetectorResult:
    """Judge full precision's scores [N] (0/1, or recall) on labelled cases like the traffic's.

    Evidence is of labelled live requests since the champion came, with this window's. With it,
    degraded when it says that the mean lies below the floor, unless this window's own interval lies
    above it: what was wrong before is no reason to ask again. Golden cases have none: they are the
    same at every look, so that looking again adds no chance of error. Without it, degraded when the
    whole confidence interval lies below the floor. Inconclusive without a floor, or with fewer than
    `minimum` cases.
    """
    values = np.asarray(correct, np.float64)
    if floor is None:
        return _inconclusive(
            len(values),
            0.0,
            "the spec sets no floor for full precision (control): it was not judged",
        )
    if len(values) < max(minimum, 1):
        text = f"{len(values)} labelled cases: {minimum} are needed to judge full precision"
        return _inconclusive(len(values), floor, text)
    if not np.isfinite(values).all():
        broken = int((~np.isfinite(values)).sum())
        text = f"full precision gave NaN or infinite {metric} on {broken} labelled cases"
        return DetectorResult(
            "control", Health.DEGRADED, (Finding(metric, 0.0, floor, True, text),), len(values)
        )
    interval = mean_interval(values, alpha=alpha, seed=seed)
    text = (
        f"full precision's {metric} is {interval.value:.3f} "
        f"({interval.low:.3f} to {interval.high:.3f}) on {len(values)} labelled cases; "
        f"at least {floor:g} is wanted"
    )
    degraded = interval.high < floor
    if evidence is not None:
        stream = evidence.streams.get(LIVE, Stream())
        degraded = stream.alarmed and interval.low < floor
        enough = power_of_ten(needed(evidence, rules or Alarms()))
        text += (
            f"; evidence {power_of_ten(stream.statistic)} of {enough} "
            f"on {stream.count} requests so far"
        )
        if stream.alarmed and not degraded:
            text += "; an earlier alarm stands, and this window answers it well"
    finding = Finding(metric, interval.value, floor, degraded, text)
    return DetectorResult(
        "control", Health.DEGRADED if degraded else Health.FINE, (finding,), len(values)
    )


def _inconclusive(count: int, floor: float, text: str) -> DetectorResult:
    return DetectorResult(
        "control", Health.INCONCLUSIVE, (Finding("control", 0.0, floor, False, text),), count
    )
