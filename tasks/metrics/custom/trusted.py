"""Metric functions of a user's own, imported only from what the settings trust.

A function takes what full precision and the candidate made of every case, the labels and the
domains, and returns one number a case:

    def worse(reference, candidate, labels, domains):
        return [abs(a["score"] - b["score"]).max() for a, b in zip(reference, candidate)]

Outputs are mappings from the graph's output names to arrays without the batch axis; a label is None
where nobody knows the right answer. It runs in a process of its own, and gets copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from infra.processes.functions import call_apart, require_importable
from infra.settings import settings
from tasks.specs.custom import MetricSpec
from tasks.trusted_code import TrustedFunction, locate, source_digest, trusted_places

Outputs = Mapping[str, NDArray[np.generic]]
Function = Callable[
    [Sequence[Outputs], Sequence[Outputs], Sequence[str | None], Sequence[str]],
    NDArray[np.float64],
]
"""It raises `BadInput` whose text goes on from the function's name."""


def metric_functions(metrics: Iterable[MetricSpec]) -> Mapping[str, Function]:
    """Return what calls the functions of a spec's metrics, by the metric's name.

    It raises as `locate` does.
    """
    trusted = trusted_places(settings().trusted_metrics)
    return {
        metric.name: partial(_apart, locate(metric.function, trusted), metric.time_limit)
        for metric in metrics
        if metric.function is not None
    }


def require_metrics(metrics: Iterable[MetricSpec]) -> None:
    """Import the functions of a spec's metrics, each in a process of its own.

    Raises:
        Refused: as `locate` does.
        BadInput: naming the metric whose module cannot be imported, or lacks the function.
    """
    trusted = trusted_places(settings().trusted_metrics)
    for metric in metrics:
        if metric.function is None:
            continue
        place = locate(metric.function, trusted)
        try:
            require_importable(
                place.module, place.function, folder=place.folder, seconds=metric.time_limit
            )
        except BadInput as exc:
            raise BadInput(f"the metric {metric.name}: {metric.function} {exc}") from exc


def _apart(place: TrustedFunction, seconds: float, *arguments: object) -> NDArray[np.float64]:
    return call_apart(place.module, place.function, arguments, folder=place.folder, seconds=seconds)


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
        BadInput: when it raises, takes longer than its metric's `time_limit`, ends its process,
            or returns anything but one finite number a case.
    """
    what = f"the metric {metric.name} ({metric.function})"
    before, after = ([dict(outputs) for outputs in side] for side in (reference, candidate))
    try:
        values = function(before, after, list(labels), list(domains))
    except BadInput as exc:
        raise BadInput(f"{what} {exc}") from exc
    if values.shape != (len(reference),):
        raise BadInput(
            f"{what} returned shape {list(values.shape)} for {len(reference)} cases: "
            "one value a case is needed"
        )
    if not np.isfinite(values).all():
        case = int(np.flatnonzero(~np.isfinite(values))[0])
        raise BadInput(f"{what} returned {values[case]} for case {case}: give a finite number")
    return values
