"""What a candidate with outputs of its own scores on the golden cases, by the spec's metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.metrics.custom.distances import worst_distance
from tasks.metrics.custom.labelled import MEASURES
from tasks.metrics.custom.options import Options, options_of
from tasks.metrics.custom.trusted import Function, call
from tasks.models.custom.inputs import Outputs
from tasks.records import GoldenSet
from tasks.specs.custom import MetricSpec
from tasks.validation.metrics.golden import CaseScores


@dataclass(frozen=True, slots=True, eq=False)
class CustomOutputs:
    """What both models made of a golden set, in the set's order."""

    reference: Sequence[Outputs]
    candidate: Sequence[Outputs]


@dataclass(frozen=True, slots=True)
class CustomScores:
    """The metrics that could be measured, and why others could not."""

    scores: Mapping[str, CaseScores]
    failures: Mapping[str, BadInput]  # gate -> why


def evaluate_custom(
    metrics: Sequence[MetricSpec],
    functions: Mapping[str, Function],
    charsets: Mapping[str, Sequence[str]],
    golden: GoldenSet,
    outputs: CustomOutputs,
) -> CustomScores:
    """Compute every metric of a spec; one that fails does not keep the others from being judged.

    A distance without `output` is of every output, and the worst counts.

    Args:
        metrics: the spec's.
        functions: those of its metrics that have one, by the metric's name.
        charsets: those of its metrics that read text, by the metric's name.
        golden: the cases.
        outputs: of both models.
    """
    scores: dict[str, CaseScores] = {}
    failures: dict[str, BadInput] = {}
    for metric in metrics:
        try:
            scores |= _scores(metric, functions.get(metric.name), charsets, golden, outputs)
        except BadInput as exc:
            failures[metric.gate] = exc
    applied = {name: values for name, values in scores.items() if values.values.size}
    return CustomScores(MappingProxyType(applied), MappingProxyType(failures))


def _scores(
    metric: MetricSpec,
    function: Function | None,
    charsets: Mapping[str, Sequence[str]],
    golden: GoldenSet,
    outputs: CustomOutputs,
) -> dict[str, CaseScores]:
    everything = np.arange(len(golden.cases))
    if function is not None:
        labels = [case.label for case in golden.cases]
        domains = [case.domain for case in golden.cases]
        values = call(function, metric, outputs.reference, outputs.candidate, labels, domains)
        return {metric.gate: CaseScores(values, everything, unit=False)}
    if metric.labelled:
        return _paired(metric, options_of(metric, charsets.get(metric.name, ())), golden, outputs)
    return {metric.gate: CaseScores(distances(metric, outputs), everything, unit=False)}


def _paired(
    metric: MetricSpec, options: Options, golden: GoldenSet, outputs: CustomOutputs
) -> dict[str, CaseScores]:
    """Hold both sides of labelled cases against the label, and the candidate against the other."""
    labels = {
        place: case.label for place, case in enumerate(golden.cases) if case.label is not None
    }
    before, after = (
        np.array(
            [
                _score(metric, side[place], label, options, golden.cases[place].case_id)
                for place, label in labels.items()
            ],
            np.float64,
        )
        for side in (outputs.reference, outputs.candidate)
    )
    cases = np.array(list(labels), np.int64)
    lost = before - after if metric.higher_is_better else after - before
    return {
        metric.gate: CaseScores(lost, cases, unit=metric.scores_answers),
        f"{metric.name}-reference": CaseScores(before, cases),
        f"{metric.name}-candidate": CaseScores(after, cases),
    }


def _score(
    metric: MetricSpec, outputs: Outputs, label: str, options: Options, case_id: str
) -> float:
    try:
        return MEASURES[metric.kind](outputs, label, options)
    except BadInput as exc:
        raise BadInput(f"the metric {metric.name}, golden case {case_id!r}: {exc}") from exc


def distances(metric: MetricSpec, outputs: CustomOutputs) -> NDArray[np.float64]:
    """Return a built-in distance of each case, [cases]; the worst of its outputs counts.

    Raises:
        BadInput: for an output that the graph lacks, or one without a distance.
    """
    both = zip(outputs.reference, outputs.candidate, strict=True)
    return np.array(
        [
            worst_distance(metric.kind, metric.output, before, after, threshold=metric.threshold)
            for before, after in both
        ],
        np.float64,
    )
