"""What a candidate with outputs of its own scores on the golden cases, by the spec's metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from infra.settings import settings
from tasks.metrics.distances import worst_distance
from tasks.metrics.trusted import Function, call
from tasks.metrics.trusted_code import load_function, trusted_places
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


def metric_functions(metrics: Sequence[MetricSpec]) -> Mapping[str, Function]:
    """Import the functions of metrics that have one; raises as `load_function` does."""
    trusted = trusted_places(settings().trusted_metrics)
    return {
        metric.name: load_function(metric.function, trusted)
        for metric in metrics
        if metric.function is not None
    }


def evaluate_custom(
    metrics: Sequence[MetricSpec],
    functions: Mapping[str, Function],
    golden: GoldenSet,
    outputs: CustomOutputs,
) -> CustomScores:
    """Compute every metric of a spec; one that fails does not keep the others from being judged.

    A distance without `output` is of every output, and the worst counts.

    Args:
        metrics: the spec's.
        functions: those of its metrics that have one, by the metric's name.
        golden: the cases.
        outputs: of both models.
    """
    scores: dict[str, CaseScores] = {}
    failures: dict[str, BadInput] = {}
    for metric in metrics:
        try:
            scores |= _scores(metric, functions.get(metric.name), golden, outputs)
        except BadInput as exc:
            failures[metric.gate] = exc
    applied = {name: values for name, values in scores.items() if values.values.size}
    return CustomScores(MappingProxyType(applied), MappingProxyType(failures))


def _scores(
    metric: MetricSpec, function: Function | None, golden: GoldenSet, outputs: CustomOutputs
) -> dict[str, CaseScores]:
    everything = np.arange(len(golden.cases))
    if function is not None:
        labels = [case.label for case in golden.cases]
        domains = [case.domain for case in golden.cases]
        values = call(function, metric, outputs.reference, outputs.candidate, labels, domains)
        return {metric.gate: CaseScores(values, everything)}
    return {metric.gate: CaseScores(distances(metric, outputs), everything)}


def distances(metric: MetricSpec, outputs: CustomOutputs) -> NDArray[np.float64]:
    """Return a built-in distance of each case, [cases]; the worst of its outputs counts.

    Raises:
        BadInput: for an output that the graph lacks, or one without a distance.
    """
    both = zip(outputs.reference, outputs.candidate, strict=True)
    return np.array(
        [worst_distance(metric.kind, metric.output, before, after) for before, after in both],
        np.float64,
    )
