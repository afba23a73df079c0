"""What detectors look at, measured by running engines on a window's requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.graphs.sites import Site
from tasks.metrics.custom.distances import worst_distance
from tasks.metrics.embeddings import safety_decisions
from tasks.metrics.fidelity import fidelity
from tasks.models.batches import CASES
from tasks.models.custom.inputs import run_records
from tasks.models.inputs import Inputs, record_inputs, run_all
from tasks.models.token_agreement import token_agreement
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.clipped_fraction import Clipping, watch_clipping
from tasks.observation.observer import ROWS
from tasks.observation.scales import Scales
from tasks.records import GoldenSet, Payload, Request, Tensor
from tasks.specs.spec import ModelSpec
from tasks.specs.traits import TRAITS, Task


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """How both engines answered, one row a payload."""

    scores: NDArray[np.float64]  # cosine, or agreement, 1 is identical
    expected: Tensor | None = None  # full precision's; None where tokens are compared
    served: Tensor | None = None  # the champion's

    @property
    def have_outputs(self) -> bool:
        """Whether there is one output a payload, as a safety head needs it."""
        return self.expected is not None and self.served is not None

    def flips(self, golden: GoldenSet) -> NDArray[np.bool_] | None:
        """Return which safety decisions differ, [payloads]; None without a safety head."""
        if golden.safety_weight is None or self.expected is None or self.served is None:
            return None
        before, after = (
            safety_decisions(outputs, golden.safety_weight, golden.safety_bias)
            for outputs in (self.expected, self.served)
        )
        return np.asarray(before != after, np.bool_)


def answers(
    spec: ModelSpec,
    reference: Engine,
    served: Engine,
    inputs: Inputs,
    payloads: Sequence[Payload],
) -> Answers:
    """Run full precision and the champion's engine.

    Where tokens are written, a score is the fraction of a request's tokens after which both find
    the same next token likeliest.
    """
    if TRAITS[spec.task].per_token:
        return Answers(token_agreement(reference, served, inputs, payloads))
    if spec.task is Task.CUSTOM:
        return Answers(_closeness(spec, reference, served, inputs, payloads))
    outputs = [run_all(engine, inputs, payloads) for engine in (reference, served)]
    return Answers(fidelity(spec.task, *outputs), *outputs)


def _closeness(
    spec: ModelSpec,
    reference: Engine,
    served: Engine,
    inputs: Inputs,
    payloads: Sequence[Payload],
) -> NDArray[np.float64]:
    """Return the spec's live metric of each request, or the cosine of its outputs."""
    records = record_inputs(inputs)
    sides = (run_records(engine, records, payloads) for engine in (reference, served))
    metric = spec.live_metric
    kind, output = (metric.kind, metric.output) if metric else ("cosine", None)
    threshold = metric.threshold if metric else 0.0
    return np.array(
        [
            worst_distance(kind, output, before, after, threshold=threshold)
            for before, after in zip(*sides, strict=True)
        ]
    )


def activations(
    instrumented: Engine,
    sites: Sequence[Site],
    inputs: Inputs,
    payloads: Sequence[Payload],
    scales: Scales,
    rows: int = ROWS,
    cases: int = CASES,
) -> tuple[dict[str, ExponentHistogram], Clipping]:
    """Observe the quantized sites off the serving path: live histograms, and what requests clip."""
    quantized = tuple(site for site in sites if site.name in scales)
    observed, clipping = watch_clipping(
        instrumented, quantized, inputs, payloads, _amax(scales), _smoothing(scales), rows, cases
    )
    return {name: site.histogram for name, site in observed.items()}, clipping


def has_embeddings(spec: ModelSpec) -> bool:
    """Return whether the model's outputs are embeddings."""
    return TRAITS[spec.task].fidelity == "cosine"


def embeddings(
    reference: Engine, inputs: Inputs, requests: Sequence[Request]
) -> NDArray[np.float32]:
    """Run full precision: [requests, D]."""
    payloads = [request.payload for request in requests]
    return np.asarray(run_all(reference, inputs, payloads), np.float32)


def _amax(scales: Scales) -> dict[str, float]:
    return {name: quantizer.amax for name, quantizer in scales.items()}


def _smoothing(scales: Scales) -> Mapping[str, NDArray[np.float32]]:
    return {
        name: quantizer.smoothing_scales
        for name, quantizer in scales.items()
        if quantizer.smoothing_scales is not None
    }
