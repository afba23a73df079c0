"""Candidate against champion on the same golden cases: information for whoever reads the report."""

from __future__ import annotations

import numpy as np

from infra.errors import BadInput
from tasks.metrics.intervals import paired_interval
from tasks.records import GateResult, Interval, Verdict
from tasks.specs.groups import ALL
from tasks.validation.gates import AT_LEAST, MINIMUM_CASES, judge
from tasks.validation.metrics.golden import CaseScores

METRIC = "versus-champion"


def against_champion(
    candidate: CaseScores, champion: CaseScores, margin: float, *, higher_is_better: bool = True
) -> GateResult:
    """Judge whether the candidate is at most `margin` worse than the champion.

    It looks at the paired differences of one metric's scores. The gate never binds: the budgets
    decide, and a champion may have been promoted under looser ones.

    Raises:
        BadInput: The two were scored on different cases.
    """
    if not np.array_equal(candidate.cases, champion.cases):
        raise BadInput(
            "candidate and champion were scored on different golden cases: run both on the same set"
        )
    gains = (candidate.values - champion.values) * (1 if higher_is_better else -1)
    count = int(gains.size)
    if not np.isfinite(gains).all():
        return _gate(Verdict.ERROR, None, margin, count, "a score is NaN or infinite")
    if count < MINIMUM_CASES:
        return _gate(
            Verdict.INCONCLUSIVE,
            None,
            margin,
            count,
            f"only {count} cases, and {MINIMUM_CASES} are needed",
        )
    gain = paired_interval(gains)
    reason = f"{gain.value:+.4g} (95 % interval {gain.low:+.4g} to {gain.high:+.4g})"
    return _gate(judge(gain, -margin, AT_LEAST), gain, margin, count, reason)


def _gate(
    verdict: Verdict, gain: Interval | None, margin: float, count: int, reason: str
) -> GateResult:
    text = f"gain over the champion: {reason}; the budget is {AT_LEAST} {-margin:g}"
    return GateResult(METRIC, ALL, False, verdict, gain, -margin, AT_LEAST, count, text)
