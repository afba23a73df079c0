"""The gates: measured scores against budgets, each with a verdict that says how it came about.

Quality is a non-inferiority test (`judge`). A gate passes only when the whole confidence interval
keeps the budget, and fails when the estimate itself breaks it. One that is better than full
precision by more than chance and rounding give is suspicious. In between the cases are too few to
tell: inconclusive, and not promoted. Fewer than `MINIMUM_CASES` cases are always inconclusive, and
scores that are not finite are an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput, Refused
from tasks.metrics.generated_text import why_not_run
from tasks.metrics.intervals import difference_interval, fraction_interval, paired_interval
from tasks.records import CaseKind, GateReport, GateResult, GoldenCase, GoldenSet, Interval, Verdict
from tasks.specs.groups import ALL, Reach, group_names, judged, reach
from tasks.specs.spec import Budgets, QualityBudget, Task
from tasks.validation.metrics.golden import CaseScores, Outputs, evaluate
from tasks.validation.metrics.language import (
    OF_CACHE,
    OF_PROGRAMS,
    REPORTED,
    LanguageOutputs,
    evaluate_language,
)

MINIMUM_CASES = 10
"""Fewer golden cases than this support no verdict."""

IMPLAUSIBLE = 0.05
"""Better than full precision by more, and the golden cases measure something else.

A fraction of the perplexity, or of what a drop is a difference of. A language model that was judged
on the tokens of its chat template scored 0.907 of full precision's perplexity, while its dialogues
fell from 1.0 to 0.25.
"""

AT_LEAST, AT_MOST = "at least", "at most"
SHOWN = "reported"
"""The direction of a figure that nothing judges."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One budget on one metric of one group."""

    metric: str
    group: str
    binding: bool
    budget: float
    direction: str  # AT_LEAST or AT_MOST


def golden_gates(
    task: Task,
    golden: GoldenSet,
    reference: Outputs,
    candidate: Outputs,
    budgets: Budgets,
    *,
    served: frozenset[str],
) -> tuple[GateResult, ...]:
    """Judge a candidate's outputs [N, width] against full precision's, for quality and safety.

    Outputs that cannot be scored (NaN, another shape) give one binding gate with the verdict
    `error`, never `passed`.
    """
    try:
        scores = evaluate(task, golden, reference, candidate)
    except BadInput as exc:
        return (error_gate("outputs", ALL, exc),)
    gates = quality_gates(scores, golden.cases, budgets, served=served)
    if golden.safety_weight is None:
        return gates
    flips = scores["safety-flips"].values if "safety-flips" in scores else np.zeros(0)
    return (*gates, safety_gate(int(flips.sum()), flips.size, budgets.safety_flips))


def language_gates(
    golden: GoldenSet,
    outputs: LanguageOutputs,
    budgets: Budgets,
    *,
    served: frozenset[str],
    scores: Mapping[str, CaseScores] | None = None,
) -> tuple[GateResult, ...]:
    """Judge a language model's candidate for quality and safety.

    The figures that are only reported come after the gates. `scores` are those of the outputs,
    where they are known: programs need not run twice.
    """
    scores = evaluate_language(golden, outputs) if scores is None else scores
    if outputs.cached is None:
        # The cache holds what was computed: there is nothing to judge in reading it back.
        rules = tuple(rule for rule in budgets.quality if rule.metric not in OF_CACHE)
        budgets = budgets.model_copy(update={"quality": rules})
    rules, unrun = _without_unrun(golden, budgets.quality)
    budgets = budgets.model_copy(update={"quality": rules})
    gates = (*metric_gates(scores, golden, budgets, served=served), *unrun)
    if not any(case.kind is CaseKind.SAFETY for case in golden.cases):
        return gates
    flips = scores["safety-flips"].values
    return (*gates, safety_gate(int(flips.sum()), flips.size, budgets.safety_flips))


def _without_unrun(
    golden: GoldenSet, rules: Sequence[QualityBudget]
) -> tuple[tuple[QualityBudget, ...], tuple[GateResult, ...]]:
    """Return the budgets that can be judged here, and a gate that binds for each that cannot."""
    reason = why_not_run() if any(case.kind is CaseKind.CODE for case in golden.cases) else None
    if reason is None:
        return tuple(rules), ()
    unrun = (
        _result(
            Bound(rule.metric, rule.group or ALL, True, rule.at_most or 0.0, AT_MOST),
            Verdict.INCONCLUSIVE,
            None,
            0,
            reason,
        )
        for rule in rules
        if rule.metric == OF_PROGRAMS
    )
    return tuple(rule for rule in rules if rule.metric != OF_PROGRAMS), tuple(unrun)


def metric_gates(
    scores: Mapping[str, CaseScores], golden: GoldenSet, budgets: Budgets, *, served: frozenset[str]
) -> tuple[GateResult, ...]:
    """Judge every quality budget of any kind of model.

    The figures that are only reported come after the gates.
    """
    gates = quality_gates(scores, golden.cases, budgets, served=served)
    figures = [
        gate
        for metric in sorted(scores)
        if is_reported(metric)
        for gate in _reported(metric, scores, golden)
    ]
    return (*gates, *figures)


def is_reported(metric: str) -> bool:
    """Return whether a metric is for the reader alone."""
    return metric in REPORTED or metric.endswith(("-reference", "-candidate"))


def _reported(
    metric: str, scores: Mapping[str, CaseScores], golden: GoldenSet
) -> Iterator[GateResult]:
    """Report a metric of all its cases and of each group; nothing binds and nothing passes."""
    measured = scores[metric]
    cases = [golden.cases[index] for index in measured.cases]
    basis = "needs no labels" if metric in REPORTED else _basis(cases)
    for group in group_names(cases, frozenset()):
        values = measured.values[[judged(case, group, frozenset()) for case in cases]]
        estimate = paired_interval(values) if values.size > 1 else None
        figure = "" if estimate is None else f" {estimate.value:.4g}"
        text = f"{metric} of {group}:{figure}, reported and not judged ({basis})"
        yield GateResult(
            metric, group, False, Verdict.INCONCLUSIVE, estimate, 0.0, SHOWN, values.size, text
        )


def _basis(cases: Sequence[GoldenCase]) -> str:
    """Say what the answers were compared with."""
    labelled = sum(case.label is not None for case in cases)
    if labelled == len(cases):
        return "against labels"
    return (
        f"labels for {labelled} of {len(cases)} cases; "
        "full precision's own answers stand in for the others"
    )


def quality_gates(
    scores: Mapping[str, CaseScores],
    cases: Sequence[GoldenCase],
    budgets: Budgets,
    *,
    served: frozenset[str],
) -> tuple[GateResult, ...]:
    """Judge each quality budget in each group of the golden cases that its metric applies to.

    `served` holds the groups found in traffic ("language=ja", "domain=code"); empty means
    everything. "all" and served groups bind, and look only at cases that are served in both
    language and domain. A group that is not served is reported with all its cases, and does not
    bind. Nor does a served group that the metric has no case of, which is reported; "all" then
    holds the cases of every domain, or language.

    A budget that names a group replaces the metric's general budget there, and binds with or
    without cases. A metric with no general budget is judged only in the groups named.
    """
    return tuple(
        gate
        for rule in budgets.quality
        for gate in _rule_gates(rule, scores, cases, budgets, served)
    )


def safety_gate(flips: int, count: int, budget: int) -> GateResult:
    """Judge decisions of the safety head that differ from full precision.

    The gate binds whatever is served. The golden safety cases are judged as a list, not as a
    sample: one flip over the budget fails, with no interval.
    """
    bound = Bound("safety-flips", ALL, True, budget, AT_MOST)
    if flips > budget:
        return _result(
            bound, Verdict.FAILED, _exactly(flips), count, f"{flips} of {count} decisions flipped"
        )
    if count < MINIMUM_CASES:
        reason = (
            f"only {count} safety cases, and {MINIMUM_CASES} are needed: add some to the golden set"
        )
        return _result(
            bound, Verdict.INCONCLUSIVE, _exactly(flips) if count else None, count, reason
        )
    return _result(
        bound, Verdict.PASSED, _exactly(flips), count, f"{flips} of {count} decisions flipped"
    )


def error_gate(metric: str, group: str, exc: BaseException) -> GateResult:
    """Return a binding gate that could not be judged, with the exception's words as its reason."""
    reason = f"could not be judged: {' '.join(str(exc).split()) or type(exc).__name__}"
    return GateResult(metric, group, True, Verdict.ERROR, None, 0.0, AT_MOST, 0, reason)


def unexecuted(target: str, reason: str) -> GateReport:
    """Report on an engine that was built but cannot run here: inconclusive (ADR 31)."""
    gate = GateResult("execution", ALL, True, Verdict.INCONCLUSIVE, None, 1.0, AT_LEAST, 0, reason)
    return GateReport(target, (gate,))


def unbuilt(target: str, reason: str) -> GateReport:
    """Report on an engine that its target could not build: an error, which never passes."""
    return GateReport(target, (error_gate("build", ALL, Refused(reason)),))


def judge(estimate: Interval, budget: float, direction: str) -> Verdict:
    """Test for non-inferiority.

    Failed when the estimate breaks the budget, passed when the whole interval keeps it.
    """
    figures = np.array([estimate.value, estimate.low, estimate.high, budget])
    if np.isnan(figures).any():
        return Verdict.ERROR
    if direction == AT_LEAST:
        breaks, keeps = estimate.value < budget, estimate.low >= budget
    else:
        breaks, keeps = estimate.value > budget, estimate.high <= budget
    if breaks:
        return Verdict.FAILED
    return Verdict.PASSED if keeps else Verdict.INCONCLUSIVE


def is_implausible(metric: str, estimate: Interval) -> bool:
    """Return whether the whole interval is better than full precision by more than IMPLAUSIBLE.

    A quantized model approximates full precision: it may be luckier, but not by so much.
    """
    if metric.endswith("perplexity-ratio"):
        return estimate.high < 1 - IMPLAUSIBLE
    return metric.endswith(("-drop", "-increase")) and estimate.high < -IMPLAUSIBLE


def interval_of(metric: str, values: NDArray[np.float64], *, unit: bool = True) -> Interval:
    """Return the interval that fits the metric's kind of score.

    `unit` says that differences lie in -1..1, so that cases of such sizes may be invented.

    It raises `BadInput` as those in `intervals.py` do.
    """
    if metric.endswith("flips"):
        return fraction_interval(values)
    if metric.endswith("perplexity-ratio"):
        logs = paired_interval(values)
        return Interval(math.exp(logs.value), math.exp(logs.low), math.exp(logs.high))
    # Most recordings have no error at all, and resampled zeros alone would prove too much.
    differs = unit and metric.endswith(("-drop", "-increase", "-error-rate"))
    return difference_interval(values) if differs else paired_interval(values)


def _rule_gates(
    rule: QualityBudget,
    scores: Mapping[str, CaseScores],
    cases: Sequence[GoldenCase],
    budgets: Budgets,
    served: frozenset[str],
) -> Iterator[GateResult]:
    """Judge one budget.

    Groups are those of the metric's own cases: safety texts are no group of cosine.
    """
    measured = scores.get(rule.metric)
    own = [] if measured is None else [cases[index] for index in measured.cases]
    reached = reach(served, own)
    for bound in _bounds(rule, budgets.quality, group_names(own, served), served, reached):
        if rule.group is None and bound.group in reached.lacking:
            yield _result(
                bound, Verdict.INCONCLUSIVE, None, 0, "no golden case is of it: not judged by group"
            )
        else:
            yield _quality_gate(bound, measured, cases, reached.narrowing)


def _bounds(
    rule: QualityBudget,
    rules: Sequence[QualityBudget],
    groups: Sequence[str],
    served: frozenset[str],
    reached: Reach,
) -> list[Bound]:
    """Spell the rule out for each group that it reaches."""
    named = {other.group for other in rules if other.metric == rule.metric}
    if rule.group:
        return [
            _bound(
                rule, rule.group, binding=rule.group == ALL or not served or rule.group in served
            )
        ]
    unnamed = [group for group in groups if group not in named]
    return [
        _bound(rule, group, binding=group == ALL or not served or group in reached.known)
        for group in unnamed
    ]


def _bound(rule: QualityBudget, group: str, *, binding: bool) -> Bound:
    if rule.at_least is not None:
        return Bound(rule.metric, group, binding, rule.at_least, AT_LEAST)
    return Bound(rule.metric, group, binding, rule.at_most or 0.0, AT_MOST)


def _quality_gate(
    bound: Bound, scores: CaseScores | None, cases: Sequence[GoldenCase], narrowing: frozenset[str]
) -> GateResult:
    if scores is None:
        return _result(
            bound, Verdict.INCONCLUSIVE, None, 0, "no golden case measures it: add such cases"
        )
    chosen = [
        judged(cases[index], bound.group, narrowing if bound.binding else frozenset())
        for index in scores.cases
    ]
    return _judged(bound, scores.values[np.array(chosen, bool)], unit=scores.unit)


def _judged(bound: Bound, values: NDArray[np.float64], *, unit: bool) -> GateResult:
    """Judge the scores [n] of one group."""
    if not np.isfinite(values).all():
        return _result(
            bound,
            Verdict.ERROR,
            None,
            values.size,
            "a score is NaN or infinite: the outputs are broken",
        )
    estimate = interval_of(bound.metric, values, unit=unit) if values.size > 1 else None
    if estimate is None or values.size < MINIMUM_CASES:
        reason = (
            f"only {values.size} golden cases, and {MINIMUM_CASES} are needed: "
            "add some of this group"
        )
        return _result(bound, Verdict.INCONCLUSIVE, estimate, values.size, reason)
    verdict = judge(estimate, bound.budget, bound.direction)
    if unit and verdict is Verdict.PASSED and is_implausible(bound.metric, estimate):
        verdict = Verdict.SUSPICIOUS
    return _result(bound, verdict, estimate, values.size, _figures(estimate, verdict))


def _figures(estimate: Interval, verdict: Verdict) -> str:
    text = f"{estimate.value:.4g} (95 % interval {estimate.low:.4g} to {estimate.high:.4g})"
    if verdict is Verdict.INCONCLUSIVE:
        return f"{text} straddles the budget: too few golden cases to tell"
    if verdict is Verdict.SUSPICIOUS:
        return (
            f"{text} is implausibly better than full precision: look at what these golden cases "
            "measure, such as a template's tokens or wrong labels"
        )
    return text


def _result(
    bound: Bound, verdict: Verdict, estimate: Interval | None, count: int, reason: str
) -> GateResult:
    text = (
        f"{bound.metric} of {bound.group}: {reason}; "
        f"the budget is {bound.direction} {bound.budget:g}"
    )
    return GateResult(
        bound.metric,
        bound.group,
        bound.binding,
        verdict,
        estimate,
        bound.budget,
        bound.direction,
        count,
        text,
    )


def _exactly(count: int) -> Interval:
    return Interval(float(count), float(count), float(count))
