"""The input detector: do requests look different from those of the reference window?

A large sample makes any difference visible, so a feature has moved only when the difference is
also large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infra.canonical import canonical, sha256
from tasks.drift.detectors.tables import FeatureTable, tables
from tasks.drift.evidence import Alarms, Evidence, needed, with_window
from tasks.drift.formatting import power_of_ten
from tasks.drift.statistics.betting import log_frequency_capitals
from tasks.drift.statistics.streams import Increment, Stream
from tasks.records import DetectorResult, Finding, Health, Request

EFFECT = 0.2
"""Cramér's V that matters: 10 % of traffic in a new language, or a shift by half a deviation."""
MINIMUM = 20
"""Requests on each side."""
UNLUCKY = 0.001
"""The chance that the reference, a finite sample, misleads, and false alarms exceed the budget."""


def input_increments(
    features: Mapping[str, FeatureTable], fresh: Mapping[str, NDArray[np.float64]]
) -> dict[str, Increment]:
    """Return what counts [bins] of requests not counted before add to each feature's evidence.

    The bets are against bounds of the reference's frequencies that hold for all features at once
    with 1 - UNLUCKY: plugging the observed frequencies in would call a finite reference's own luck
    a drift.
    """
    return {
        name: Increment(
            sha256(canonical([float(value) for value in table.reference]))[:16],
            log_frequency_capitals(table.reference, fresh[name], delta=UNLUCKY / len(features)),
            int(fresh[name].sum()),
        )
        for name, table in features.items()
    }


def judge_inputs(
    reference: Sequence[Request],
    current: Sequence[Request],
    *,
    effect: float = EFFECT,
    minimum: int = MINIMUM,
    embeddings: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
    rules: Alarms | None = None,
) -> DetectorResult:
    """Compare two samples feature by feature, by this window alone.

    Raises:
        BadInput: On mixed inputs.
    """
    if min(len(reference), len(current)) < minimum:
        return too_few(len(reference), len(current), minimum)
    features, limits = tables(reference, current, embeddings), rules or Alarms()
    steps = input_increments(features, {name: table.current for name, table in features.items()})
    return judge_tables(
        features,
        with_window(Evidence(), "", None, steps, limits),
        len(current),
        limits,
        effect=effect,
    )


def judge_tables(
    features: Mapping[str, FeatureTable],
    evidence: Evidence,
    count: int,
    rules: Alarms,
    *,
    effect: float = EFFECT,
) -> DetectorResult:
    """Judge features: moved when evidence calls one out and its Cramér's V here is large."""
    findings = []
    for name, table in features.items():
        stream, v = evidence.streams.get(name, Stream()), table.moved_by
        moved = stream.alarmed and v >= effect
        text = (
            f"{name} {'moved' if moved else 'did not move'}: {table.change} "
            f"(Cramér's V {v:.2f}, limit {effect:.2f}; "
            f"evidence {power_of_ten(stream.statistic)} of {power_of_ten(needed(evidence, rules))})"
        )
        findings.append(Finding(name, v, effect, moved, text))
    moved_any = any(finding.exceeded for finding in findings)
    return DetectorResult(
        "input", Health.DEGRADED if moved_any else Health.FINE, tuple(findings), count
    )


def too_few(reference: int, current: int, minimum: int = MINIMUM, why: str = "") -> DetectorResult:
    """Return that nothing can be said of so few requests."""
    text = (
        f"{reference} reference and {current} current requests: "
        f"{minimum} of each are needed to compare them{why}"
    )
    finding = Finding("requests", min(reference, current), minimum, False, text)
    return DetectorResult("input", Health.INCONCLUSIVE, (finding,), current)
