"""How seldom healthy traffic falls back, and how soon bad traffic does, at the stated budget.

Requests are simulated, and judged by the code that the gateway runs, one look an answer: as often
as it ever looks. Healthy ones lie exactly on their limits, which is the worst that is still well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.table import Goal, ResultTable, column
from tasks.serving.objectives import ERRORS, FIDELITY, LATENCY, ServingWatch, watching
from tasks.specs.serving import FallbackSpec

SPEC = FallbackSpec(latency_ms=50, late=0.05, errors=0.01, fidelity=0.95, false_alarms=10**8)
HEALTHY, QUICK = 1_000_000, 20_000
GOOD_BEFORE = 2_000
"""Healthy requests before the first bad one."""
MOST = 5_000
TRIALS, QUICK_TRIALS = 50, 5


@dataclass(frozen=True, slots=True)
class FallbackRow:
    """One kind of traffic."""

    name: str = column("traffic")
    requests: int = column("requests", "d")
    fallbacks: int = column("fallbacks", "d")
    median: float | None = column("bad requests until it fell, median", ".0f")
    worst: float | None = column("at most", ".0f")


def measure(quick: bool) -> ResultTable:
    """Simulate healthy traffic, and traffic that turns bad."""
    healthy = _healthy(QUICK if quick else HEALTHY)
    rows = [healthy]
    for name, rates in {
        "half of the requests fail": {ERRORS: 0.5},
        "each tenth request fails": {ERRORS: 0.1},
        "half of the answers are late": {LATENCY: 0.5},
        "fidelity falls to 0.8": {FIDELITY: 0.8},
    }.items():
        rows.append(_bad(name, rates, QUICK_TRIALS if quick else TRIALS))
    return ResultTable(
        "fallback",
        "Live limits: late 5 %, failed 1 %, fidelity 0.95; one false fallback in 10^8 requests",
        rows,
        (Goal("false fallbacks:", 0, healthy.fallbacks, "at most"),),
        ("One look an answer; each limit's scores lie exactly on it while traffic is healthy.",),
    )


def _healthy(requests: int) -> FallbackRow:
    rng, watch, falls = np.random.default_rng(0), watching(SPEC), 0
    scores = _scores(rng, requests, {})
    for place in range(requests):
        watch, fell = _looked(watch, scores, place)
        if fell:
            falls, watch = falls + 1, watching(SPEC)
    return FallbackRow("healthy, exactly on its limits", requests, falls, None, None)


def _bad(name: str, rates: Mapping[str, float], trials: int) -> FallbackRow:
    waits = [_wait(np.random.default_rng(seed), rates) for seed in range(trials)]
    fell = [wait for wait in waits if wait is not None]
    median, worst = (float(np.median(fell)), float(max(fell))) if fell else (None, None)
    return FallbackRow(name, trials, len(fell), median, worst)


def _wait(rng: np.random.Generator, rates: Mapping[str, float]) -> int | None:
    """Return how many bad requests it took; None where so many did not do."""
    watch = watching(SPEC)
    good = _scores(rng, GOOD_BEFORE, {})
    for place in range(0, GOOD_BEFORE, 50):
        watch = watch.looked({name: values[place : place + 50] for name, values in good.items()})
    bad = _scores(rng, MOST, rates)
    for place in range(MOST):
        watch, fell = _looked(watch, bad, place)
        if fell:
            return place + 1
    return None


def _looked(
    watch: ServingWatch, scores: Mapping[str, NDArray[np.float64]], place: int
) -> tuple[ServingWatch, bool]:
    watch = watch.looked({name: values[place : place + 1] for name, values in scores.items()})
    return watch, bool(watch.broken(SPEC.false_alarms))


def _scores(
    rng: np.random.Generator, count: int, rates: Mapping[str, float]
) -> dict[str, NDArray[np.float64]]:
    """Return scores of each limit; rates are those of bad answers, or a mean fidelity."""
    mean = rates.get(FIDELITY, SPEC.fidelity or 1.0)
    spread = min(1.0 - mean, 0.05)
    return {
        LATENCY: 1.0 - (rng.random(count) < rates.get(LATENCY, SPEC.late)),
        ERRORS: 1.0 - (rng.random(count) < rates.get(ERRORS, SPEC.errors or 0.0)),
        FIDELITY: rng.uniform(mean - spread, mean + spread, count),
    }
