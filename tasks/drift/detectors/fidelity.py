"""The fidelity detector, whether the champion answers as full precision does, and the safety one.

Both bet, window after window, against the claim that all is well (`statistics/`), so that looking
often costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from tasks.drift.evidence import Alarms, Evidence, needed, with_window
from tasks.drift.formatting import power_of_ten
from tasks.drift.statistics.betting import log_capitals, mean_bounds
from tasks.drift.statistics.streams import Increment, Stream
from tasks.records import DetectorResult, Finding, Health

Limits = Mapping[str, float] | Callable[[str], float | None]
"""The least acceptable mean score per group; a group without a limit is not judged."""
Groups = Mapping[str, NDArray[np.bool_]]
SAFETY = "safety"


def fidelity_increments(
    scores: NDArray[np.floating], groups: Groups, limit: Limits
) -> dict[str, Increment]:
    """Return what scores [N] of requests not counted before add to each group.

    Groups are masks [N] by name: "all", "language=ja".
    """
    values = np.asarray(scores, np.float64)
    if not np.isfinite(values).all():
        return {}
    return {
        group: _increment(values[mask], bound)
        for group, mask in groups.items()
        if (bound := _limit(limit, group)) is not None
    }


def judge_fidelity(
    scores: NDArray[np.floating],
    groups: Groups,
    *,
    limit: Limits,
    metric: str,
    evidence: Evidence | None = None,
    rules: Alarms | None = None,
) -> DetectorResult:
    """Judge scores [N] (cosine to full precision, or agreement 0/1) in each group.

    Evidence is of all windows since the champion came, this one included; left out, of this window
    alone. Degraded when it calls a group out that is under its limit in this window too: one that
    was bad at night is no reason to build on the requests of the day. Groups with fewer than
    `rules.minimum` requests so far are not judged; when none can be, inconclusive. Scores below 0
    count as 0.
    """
    values, alarms = np.asarray(scores, np.float64), rules or Alarms()
    broken = int((~np.isfinite(values)).sum())
    if broken:
        text = (
            f"{broken} of {len(values)} scores are NaN or infinite: "
            "the champion's output cannot be compared"
        )
        return DetectorResult(
            "fidelity", Health.DEGRADED, (Finding("all", broken, 0, True, text),), len(values)
        )
    gathered = evidence or with_window(
        Evidence(), "", None, fidelity_increments(values, groups, limit), alarms
    )
    findings, judged = [], 0
    for group, mask in groups.items():
        bound, stream = _limit(limit, group), gathered.streams.get(group, Stream())
        if bound is None:
            continue
        if stream.count < alarms.minimum or not mask.any():
            findings.append(_unjudged(group, stream.count, bound, alarms.minimum))
            continue
        judged += 1
        findings.append(
            _group(group, values[mask], stream, bound, metric, needed(gathered, alarms))
        )
    health = Health.FINE if judged else Health.INCONCLUSIVE
    if any(finding.exceeded for finding in findings):
        health = Health.DEGRADED
    return DetectorResult("fidelity", health, tuple(findings), len(values))


def safety_increments(flips: NDArray[np.bool_], rate: float) -> dict[str, Increment]:
    """Return what live decisions [N] add against a budget of this fraction of flips.

    True: a decision differs from full precision.
    """
    return {SAFETY: _increment(1.0 - np.asarray(flips, np.float64), 1.0 - rate)}


def judge_safety(
    flips: int,
    count: int,
    budget_flips: int,
    *,
    budget_count: int | None = None,
    evidence: Evidence | None = None,
    rules: Alarms | None = None,
) -> DetectorResult:
    """Hold decisions of the safety head that differ from full precision to the budget.

    On the golden guardrail cases, degraded when flips > budget_flips. On live traffic, give the
    number of golden cases that the budget was set for as `budget_count`: then degraded when the
    evidence says that the flip rate is above budget_flips / budget_count. With a budget of 0, one
    flip is too many either way.
    """
    if count < 1:
        finding = Finding(
            SAFETY, 0.0, float(budget_flips), False, "no safety decision was observed"
        )
        return DetectorResult(SAFETY, Health.INCONCLUSIVE, (finding,), 0)
    if budget_count is None:
        over, value, limit = flips > budget_flips, float(flips), float(budget_flips)
        text = (
            f"{flips} of {count} safety decisions differ from full precision; "
            f"the budget is {budget_flips}"
        )
    else:
        limit, alarms = budget_flips / max(budget_count, 1), rules or Alarms()
        marks = np.arange(count) < flips
        gathered = evidence or with_window(
            Evidence(), "", None, safety_increments(marks, limit), alarms
        )
        stream = gathered.streams.get(SAFETY, Stream())
        over = stream.alarmed or (not budget_flips and flips > 0)
        value = flips / count
        text = (
            f"{flips} of {count} live safety decisions differ from full precision ({value:.2%}); "
            f"the budget is {limit:.2%}; {_evidence_text(stream, needed(gathered, alarms))}"
        )
    finding = Finding(SAFETY, value, limit, over, text)
    return DetectorResult(SAFETY, Health.DEGRADED if over else Health.FINE, (finding,), count)


def _increment(scores: NDArray[np.float64], bound: float) -> Increment:
    return Increment(
        f"mean >= {bound:g}", log_capitals(scores, bound), len(scores), float(scores.sum())
    )


def _limit(limit: Limits, group: str) -> float | None:
    return limit.get(group) if isinstance(limit, Mapping) else limit(group)


def _group(
    group: str,
    scores: NDArray[np.float64],
    stream: Stream,
    limit: float,
    metric: str,
    enough: float,
) -> Finding:
    interval = mean_bounds(scores)
    text = (
        f"{group}: {metric} to full precision is {interval.value:.4f} "
        f"({interval.low:.4f} to {interval.high:.4f}) on {len(scores)} requests; "
        f"at least {limit:g} is wanted; {_evidence_text(stream, enough)}"
    )
    return Finding(group, interval.value, limit, stream.alarmed and interval.value < limit, text)


def _evidence_text(stream: Stream, enough: float) -> str:
    return (
        f"evidence {power_of_ten(stream.statistic)} of {power_of_ten(enough)} "
        f"on {stream.count} requests so far"
    )


def _unjudged(group: str, count: int, limit: float, minimum: int) -> Finding:
    return Finding(
        group,
        0.0,
        limit,
        False,
        f"{group}: {count} requests are too few to judge; {minimum} are needed",
    )
