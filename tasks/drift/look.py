"""One look at one window by every detector, as functions from values to values.

A detector's figures of a window become a `Measured` here. `counted` adds them to the evidence of
the windows before, `Measured.judge` says what they mean by it, and `decided` what is to be done.
The steps load the values and store the results; benchmarks call the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray

from infra.identifiers import Digest
from tasks.drift.decision import decide
from tasks.drift.detectors.control import control_increments, judge_control
from tasks.drift.detectors.fidelity import (
    fidelity_increments,
    judge_fidelity,
    judge_safety,
    safety_increments,
)
from tasks.drift.detectors.input import EFFECT, MINIMUM, input_increments, judge_tables, too_few
from tasks.drift.detectors.labelled import ENOUGH
from tasks.drift.detectors.range import judge_ranges, range_increments
from tasks.drift.detectors.tables import FeatureTable, tables
from tasks.drift.detectors.whole_traffic import whole_traffic
from tasks.drift.evidence import Alarms, Evidence, is_fresh, with_window
from tasks.drift.restraint import restrained
from tasks.drift.rules import alarms, restraint
from tasks.drift.statistics.streams import Increment
from tasks.metrics.fidelity import fidelity_metric
from tasks.numerics.formats import NumberFormat
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.clipped_fraction import Clipping
from tasks.observation.scales import Scales
from tasks.profiles import Profile
from tasks.profiles.frozen import Frozen
from tasks.records import Decision, DetectorResult, Finding, Health, PastDecision, Request
from tasks.specs.spec import Budgets, ModelSpec
from tasks.specs.traits import TRAITS, Task

PER_MILLE = 1000
"""The budget of live safety flips is a fraction; the detector wants so many of so many."""
Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]
Embeddings = tuple[NDArray[np.floating], NDArray[np.floating]]
"""Full precision's outputs of the reference and of the window, [n, D] and [m, D]."""


@dataclass(frozen=True, slots=True, eq=False)
class Deployed:
    """What the champion fixed at calibration, by site."""

    scales: Scales
    histograms: Mapping[str, ExponentHistogram]  # of its calibration set
    sensitivity: Mapping[str, float]  # loss of quantizing a site alone, where it was measured


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What one detector measured of one window, before anything is known of the windows before."""

    detector: str
    rules: Alarms
    requests: Sequence[Request] = field(repr=False)  # that it counts
    increments: Callable[[Mask], Mapping[str, Increment]]  # of some of these, [requests]
    judge: Callable[[Evidence], DetectorResult]  # by the evidence with this window


@dataclass(frozen=True, slots=True)
class Looked:
    """What all detectors found in one window."""

    results: tuple[DetectorResult, ...]
    evidence: Mapping[str, Evidence]  # by detector, with this window


def counted(measured: Measured, window: str, before: Evidence) -> Evidence:
    """Return the evidence with this window, named by its digest; a window counts once."""
    mark = window[:16]
    if mark in before.windows:
        return before
    until = max((request.time for request in measured.requests), default=None)
    fresh = np.asarray(is_fresh(before, mark, measured.requests), bool)
    return with_window(before, mark, until, measured.increments(fresh), measured.rules)


def looked(
    measured: Sequence[Measured | DetectorResult], window: str, before: Mapping[str, Evidence]
) -> Looked:
    """Count and judge what every detector measured; what needs no evidence is a result already."""
    results, evidence = [], dict(before)
    for item in measured:
        if isinstance(item, Measured):
            gathered = counted(item, window, before.get(item.detector, Evidence()))
            evidence[item.detector] = gathered
            item = item.judge(gathered)
        results.append(item)
    return Looked(tuple(results), evidence)


def detectors_after(weights: DetectorResult) -> tuple[str, ...]:
    """Return which detectors look at the window once the weights were compared.

    Scales and answers of other weights say nothing about these.
    """
    if weights.health is Health.DEGRADED:
        return ("input", "control")
    return ("input", "range", "fidelity", "control")


def stale_layers(past: Sequence[PastDecision], champion: str) -> tuple[str, ...]:
    """Return the layers that the champion's window before called stale: they have to recover."""
    newest = next((item for item in reversed(past) if item.champion == champion), None)
    return newest.exceeded.get("range", ()) if newest else ()


def decided(
    spec: ModelSpec,
    results: Sequence[DetectorResult],
    past: Sequence[PastDecision],
    *,
    window: Digest,
    end: datetime | None,
    champion: str,
    source: str,
) -> Decision:
    """Decide by the table of ADR 29, and hold back what has to wait.

    Args:
        spec: What the loop may do by itself.
        results: What the detectors found.
        past: The decisions before, oldest first.
        window: Digest of the window.
        end: Of the window, in traffic time.
        champion: Version that was looked at.
        source: Digest of the full-precision graph.
    """
    decision = decide(results, window_digest=window)
    return restrained(decision, past, restraint(spec), end=end, champion=champion, source=source)


def incomparable(spec: ModelSpec, reference: int, current: int) -> DetectorResult | None:
    """Return that so many requests are too few to compare; None when they are enough."""
    if min(reference, current) >= MINIMUM:
        return None
    why = f"; the reference is the same hours of the last {spec.window.weeks} weeks"
    return too_few(reference, current, MINIMUM, why if is_seasonal(spec) else "")


def is_seasonal(spec: ModelSpec) -> bool:
    """Return whether the window is compared with the same hours of the weeks before."""
    return spec.window.reference == "same-hour-of-week"


def inputs(
    spec: ModelSpec,
    requests: Sequence[Request],
    reference: Sequence[Request],
    embeddings: Embeddings | None,
    traffic: tuple[Frozen, Profile] | None,
) -> Measured:
    """Compare the window's requests with the reference's, feature by feature.

    Args:
        spec: How sure the detector must be.
        requests: The window's, `MINIMUM` or more.
        reference: What they are compared with, as many or more.
        embeddings: Of both, where the model gives any and the reference is the champion's.
        traffic: All traffic of the champion's window and of this one, where both were profiled.
    """
    features, rules = tables(reference, requests, embeddings), alarms(spec, "input")

    def increments(fresh: Mask) -> dict[str, Increment]:
        if not fresh.any():
            return {}
        part = _part(features, requests, reference, embeddings, fresh)
        return input_increments(
            features, {name: table.current for name, table in part.items() if name in features}
        )

    def judge(evidence: Evidence) -> DetectorResult:
        result = judge_tables(features, evidence, len(requests), rules)
        return replace(result, findings=(*result.findings, *_all_traffic(traffic)))

    return Measured("input", rules, requests, increments, judge)


def ranges(
    spec: ModelSpec,
    requests: Sequence[Request],
    deployed: Deployed,
    live: Mapping[str, ExponentHistogram],
    clipping: Clipping,
    stale: Sequence[str],
) -> Measured:
    """Hold live activations against the deployed scales.

    Args:
        spec: How sure the detector must be, and how far a stale layer must recover.
        requests: The window's.
        deployed: The champion.
        live: By site, of the window.
        clipping: How much of each request every quantizer clips.
        stale: Layers that were stale in the window before ("layer conv1").
    """
    rules = alarms(spec, "range")
    amax = {name: quantizer.amax for name, quantizer in deployed.scales.items()}
    floating = [name for name, item in deployed.scales.items() if item.format is NumberFormat.FP8]

    def increments(fresh: Mask) -> dict[str, Increment]:
        return range_increments(clipping.rows(fresh), deployed.histograms, amax, None, floating)

    def judge(evidence: Evidence) -> DetectorResult:
        return judge_ranges(
            live,
            deployed.histograms,
            amax,
            clipping,
            minimum=spec.window.minimum_rows,
            sensitivity=deployed.sensitivity,
            floating=floating,
            recovering=dict.fromkeys(stale, spec.drift.recover),
            evidence=evidence,
            rules=rules,
        )

    return Measured("range", rules, requests, increments, judge)


def fidelity(spec: ModelSpec, requests: Sequence[Request], scores: Scores) -> Measured:
    """Hold the champion's scores against full precision, [requests], to the golden budgets."""
    metric = _live_metric(spec)
    limit = partial(_limit, spec.budgets, metric)
    groups, rules = masks(requests), alarms(spec, "fidelity")

    def increments(fresh: Mask) -> dict[str, Increment]:
        part = {name: mask[fresh] for name, mask in groups.items()}
        return fidelity_increments(scores[fresh], part, limit)

    def judge(evidence: Evidence) -> DetectorResult:
        return judge_fidelity(
            scores, groups, limit=limit, metric=metric, evidence=evidence, rules=rules
        )

    return Measured("fidelity", rules, requests, increments, judge)


def safety(spec: ModelSpec, requests: Sequence[Request], flipped: Mask) -> Measured:
    """Hold safety decisions that differ from full precision's, [requests], to the live budget."""
    budget, rules = round(spec.budgets.live_safety_flips * PER_MILLE), alarms(spec, "safety")

    def increments(fresh: Mask) -> dict[str, Increment]:
        return safety_increments(flipped[fresh], budget / PER_MILLE)

    def judge(evidence: Evidence) -> DetectorResult:
        return judge_safety(
            int(flipped.sum()),
            len(requests),
            budget,
            budget_count=PER_MILLE,
            evidence=evidence,
            rules=rules,
        )

    return Measured("safety", rules, requests, increments, judge)


def floor_of(spec: ModelSpec) -> tuple[str, float | None]:
    """Return the control's metric, and the least of it; None where the spec has none."""
    if spec.control is None:
        return "accuracy", None
    own = spec.control_metric
    is_rate = own is not None and not own.higher_is_better
    return ("1 - " * is_rate) + spec.control.metric, spec.control.at_least


def are_enough(spec: ModelSpec, labelled: Sequence[Request]) -> bool:
    """Return whether the window's own labels speak for it; golden cases like it do otherwise."""
    return len(labelled) >= ENOUGH and floor_of(spec)[1] is not None


def labelled_control(spec: ModelSpec, labelled: Sequence[Request], correct: Scores) -> Measured:
    """Hold full precision's scores on the window's labelled requests, [labelled], to its floor."""
    metric, floor = floor_of(spec)
    rules = alarms(spec, "control")

    def increments(fresh: Mask) -> dict[str, Increment]:
        return control_increments(correct[fresh], floor or 0.0)

    def judge(evidence: Evidence) -> DetectorResult:
        return judge_control(correct, metric=metric, floor=floor, evidence=evidence, rules=rules)

    return Measured("control", rules, labelled, increments, judge)


def unjudged_control(spec: ModelSpec, why: str) -> DetectorResult:
    """Say why full precision could not be held against labels."""
    metric, floor = floor_of(spec)
    finding = Finding(metric, 0.0, floor or 0.0, False, f"full precision was not judged: {why}")
    return DetectorResult("control", Health.INCONCLUSIVE, (finding,), 0)


def golden_control(spec: ModelSpec, correct: Scores) -> DetectorResult:
    """Hold full precision's scores on golden cases like the window's, [cases], to its floor."""
    metric, floor = floor_of(spec)
    return judge_control(correct, metric=metric, floor=floor)


def masks(requests: Sequence[Request]) -> dict[str, Mask]:
    """Return which requests are of "all", and of each domain and language: [requests]."""
    groups = [(f"domain={request.domain}", f"language={request.language}") for request in requests]
    named = dict.fromkeys(sorted({name for both in groups for name in both}))
    return {"all": np.ones(len(requests), bool)} | {
        name: np.asarray([name in both for both in groups]) for name in named
    }


def _part(
    features: dict[str, FeatureTable],
    requests: Sequence[Request],
    reference: Sequence[Request],
    embeddings: Embeddings | None,
    fresh: Mask,
) -> dict[str, FeatureTable]:
    """Return the tables of the fresh requests alone."""
    if fresh.all():
        return features
    newer = [request for request, is_new in zip(requests, fresh, strict=True) if is_new]
    rows = None if embeddings is None else (embeddings[0], embeddings[1][fresh])
    return tables(reference, newer, rows)


def _all_traffic(traffic: tuple[Frozen, Profile] | None) -> tuple[Finding, ...]:
    return whole_traffic(*traffic, EFFECT) if traffic else ()


def _live_metric(spec: ModelSpec) -> str:
    """Return the metric that live answers are held to."""
    if spec.task is Task.CUSTOM:
        return spec.live_metric.gate if spec.live_metric else "cosine"
    return "agreement" if TRAITS[spec.task].per_token else fidelity_metric(spec.task)


def _limit(budgets: Budgets, metric: str, group: str) -> float | None:
    """Return the least mean of the metric that golden gates would pass for a group."""
    # Flips count only where nothing bounds the metric itself.
    rules = sorted(budgets.quality, key=lambda rule: rule.metric == "flips")
    for wanted in (group, None):
        for rule in rules:
            if rule.group == wanted and rule.metric in (metric, "cosine", "agreement"):
                return rule.at_least
            if rule.group == wanted and rule.metric == "flips" and rule.at_most is not None:
                return 1 - rule.at_most
    return None
