"""The fidelity lens: does the champion still answer as full precision does? And the safety lens beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from tasks.drift.intervals import mean_interval, share_interval
from tasks.records import Finding, Health, LensReading

MINIMUM = 20
"""Requests that a group needs to be judged."""
Limits = Mapping[str, float] | Callable[[str], float | None]
"""The least acceptable mean score per group; a group without a limit is not judged."""


def fidelity_lens(
    scores: NDArray[np.floating],
    groups: Mapping[str, NDArray[np.bool_]],
    *,
    limit: Limits,
    metric: str,
    minimum: int = MINIMUM,
    alpha: float = 0.05,
    seed: int = 0,
) -> LensReading:
    """Judge scores [N] (cosine to full precision, or agreement 0/1) in each group ("all", "language=ja"; masks [N]).

    Degraded when in some group the whole confidence interval of the mean lies below the limit; alpha is shared among
    the judged groups (Bonferroni). Groups under `minimum` are not judged; when none can be, inconclusive.
    """
    values = np.asarray(scores, np.float64)
    broken = int((~np.isfinite(values)).sum())
    if broken:
        text = f"{broken} of {len(values)} scores are NaN or infinite: the champion's output cannot be compared"
        return LensReading("fidelity", Health.DEGRADED, (Finding("all", broken, 0, True, text),), len(values))
    bounds = {group: bound for group in groups if (bound := _limit(limit, group)) is not None}
    judged = [group for group in bounds if int(groups[group].sum()) >= max(minimum, 1)]
    findings = [
        _group(group, values[groups[group]], bounds[group], metric, alpha / len(judged), seed)
        if group in judged
        else _unjudged(group, int(groups[group].sum()), bounds[group], minimum)
        for group in bounds
    ]
    health = Health.FINE if judged else Health.INCONCLUSIVE
    if any(finding.exceeded for finding in findings):
        health = Health.DEGRADED
    return LensReading("fidelity", health, tuple(findings), len(values))


def safety_lens(
    flips: int, count: int, budget_flips: int, *, budget_count: int | None = None, alpha: float = 0.05
) -> LensReading:
    """Decisions of the safety head that differ from full precision, against the budget.

    On the golden guardrail cases, degraded when flips > budget_flips. On live traffic, give the number of golden cases
    that the budget was set for as `budget_count`: then degraded when the flip rate is above budget_flips / budget_count
    with confidence. With a budget of 0, one flip is too many either way.
    """
    if count < 1:
        finding = Finding("safety", 0.0, float(budget_flips), False, "no safety decision was observed")
        return LensReading("safety", Health.INCONCLUSIVE, (finding,), 0)
    if budget_count is None:
        over, value, limit = flips > budget_flips, float(flips), float(budget_flips)
        text = f"{flips} of {count} safety decisions differ from full precision; the budget is {budget_flips}"
    else:
        limit = budget_flips / max(budget_count, 1)
        rate = share_interval(flips, count, alpha=alpha)
        over, value = rate.low > limit, rate.value
        text = (
            f"{flips} of {count} live safety decisions differ from full precision "
            f"({rate.value:.2%}, at least {rate.low:.2%}); the budget is {limit:.2%}"
        )
    finding = Finding("safety", value, limit, over, text)
    return LensReading("safety", Health.DEGRADED if over else Health.FINE, (finding,), count)


def _limit(limit: Limits, group: str) -> float | None:
    return limit.get(group) if isinstance(limit, Mapping) else limit(group)


def _group(group: str, scores: NDArray[np.float64], limit: float, metric: str, alpha: float, seed: int) -> Finding:
    interval = mean_interval(scores, alpha=alpha, seed=seed)
    degraded = interval.high < limit
    text = (
        f"{group}: {metric} to full precision is {interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f}) "
        f"on {len(scores)} requests; at least {limit:g} is wanted"
    )
    return Finding(group, interval.value, limit, degraded, text)


def _unjudged(group: str, count: int, limit: float, minimum: int) -> Finding:
    return Finding(group, 0.0, limit, False, f"{group}: {count} requests are too few to judge; {minimum} are needed")
