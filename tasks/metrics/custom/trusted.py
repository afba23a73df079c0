"""Metric functions of a user's own, imported only from what the settings trust.

A function takes what full precision and the candidate made of every case, the labels and the
domains, and returns one number a case:

    def worse(reference, candidate, labels, domains):
        return [abs(a["score"] - b["score"]).max() for a, b in zip(reference, candidate)]

Outputs are mappings from the graph's output names to arrays without the batch axis; a label is None
where nobody knows the right answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from infra.settings import settings
from tasks.specs.custom import MetricSpec
from tasks.trusted_code import load_function, source_digest, trusted_places

Outputs = Mapping[str, NDArray[np.generic]]
Function = Callable[
    [Sequence[Outputs], Sequence[Outputs], Sequence[str | None], Sequence[str]], object
]


def metric_functions(metrics: Iterable[MetricSpec]) -> Mapping[str, Function]:
    """Import the functions of a spec's metrics, by the metric's name.

    It raises as `load_function` does.
    """
    trusted = trusted_places(settings().trusted_metrics)
    return {
        metric.name: load_function(metric.function, trusted)
        for metric in metrics
        if metric.function is not None
    }


def source_digests(metrics: Iterable[MetricSpec]) -> dict[str, str]:
    """Return SHA-256 of each function's file, by metric."""
    trusted = trusted_places(settings().trusted_metrics)
    return {
        metric.name: source_digest(metric.function, trusted)
        for metric in metrics
        if metric.function is not None
    }


def call(
    function: Function,
    metric: MetricSpec,
    reference: Sequence[Outputs],
    candidate: Sequence[Outputs],
    labels: Sequence[str | None],
    domains: Sequence[str],
) -> NDArray[np.float64]:
    """Return a function's value of each case, [cases].

    Raises:
        BadInput: when it raises, or returns anything but one finite number a case.
    """
    what = f"the metric {metric.name} ({metric.function})"
    try:
        returned = function(reference, candidate, labels, domains)
    except Exception as exc:  # a user's own code raises whatever it likes
        line = " ".join(str(exc).split())[:300]
        raise BadInput(f"{what} raised {type(exc).__name__}: {line}") from exc
    try:
        values = np.asarray(returned, np.float64)
    except (TypeError, ValueError) as exc:
        raise BadInput(f"{what} returned {type(returned).__name__}, not numbers") from exc
    if values.shape != (len(reference),):
        raise BadInput(
            f"{what} returned shape {list(values.shape)} for {len(reference)} cases: "
            "one value a case is needed"
        )
    if not np.isfinite(values).all():
        case = int(np.flatnonzero(~np.isfinite(values))[0])
        raise BadInput(f"{what} returned {values[case]} for case {case}: give a finite number")
    return values
