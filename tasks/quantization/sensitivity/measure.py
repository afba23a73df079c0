"""How much each site's quantization costs.

Measured on a toggled graph, or from the observation alone.

`measure` quantizes one part after the other and compares what the whole model returns. `rank` needs
no pass over the data, and knows nothing of what later layers make of an error:
`benchmarks/quantization/sensitivity.py` holds both against quantizing one site after the other in
engines of their own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.canonical import Json, canonical
from infra.engines.port import Arrays, Engine
from infra.errors import BadInput
from tasks.graphs.sites import Site
from tasks.metrics.custom.distances import cosine_of
from tasks.metrics.embeddings import cosine
from tasks.metrics.outputs import finite_rows
from tasks.models.batches import Batch
from tasks.models.inputs import Inputs
from tasks.numerics.histogram import CENTRES, FINITE_BINS, ExponentHistogram
from tasks.numerics.output_error import relative_error, squared_error
from tasks.numerics.quantized_weight import WeightScheme, multiplied, quantize
from tasks.observation.observer import SiteObservation
from tasks.observation.scales import Scales
from tasks.quantization.activation.quantizers import SiteQuantizer, choice_error, histogram
from tasks.quantization.sensitivity.toggled_graph import INPUT, QuantizedPart
from tasks.records import Payload
from tasks.specs.traits import TRAITS, Task


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One site's cost."""

    site: str
    # Squared output error / squared output; for convolutions, of input and weight instead.
    error: float
    macs_share: float  # of the multiply-accumulates per position of all sites
    loss: float | None = (
        None  # of the model's output when this site alone is quantized; None: not measured
    )
    stale: float | None = None  # the error of the champion's quantizer on the same traffic


@dataclass(frozen=True, slots=True)
class Losses:
    """What quantizing one part at a time does to the model's output.

    Mean loss a case (or a token), 0 is none.
    """

    parts: Mapping[str, float]  # part -> loss, in the order of the toggles
    submodules: Mapping[str, str]  # part -> submodule, of the parts that are no sites
    together: float  # all sites at once, nothing else
    cases: int


@dataclass(frozen=True, slots=True)
class Group:
    """One part of the network."""

    name: str
    loss: float  # summed over its parts, each quantized by itself
    parts: int


def measure(
    engine: Engine,
    inputs: Inputs,
    task: Task,
    parts: Sequence[QuantizedPart],
    payloads: Sequence[Payload],
) -> Losses:
    """Run a toggled graph over the payloads.

    Once in full precision, once a part, once with all sites.

    Raises `BadInput` when an output is not finite.
    """
    sites = np.array([part.submodule is None for part in parts])
    settings = [np.zeros(len(parts), bool), *np.eye(len(parts), dtype=bool), sites]
    losses: list[list[NDArray[np.float64]]] = [[] for _ in settings[1:]]
    for batch in inputs.batches(payloads):
        exact, *outputs = (_rows(engine, batch, inputs.output, toggles) for toggles in settings)
        for by_batch, quantized in zip(losses, outputs, strict=True):
            by_batch.append(output_loss(task, exact, quantized))
    means = [float(np.concatenate(by_batch).mean()) for by_batch in losses]
    names = [part.name for part in parts]
    others = {part.name: part.submodule for part in parts if part.submodule is not None}
    return Losses(dict(zip(names, means[:-1], strict=True)), others, means[-1], len(payloads))


def _rows(
    engine: Engine, batch: Batch, output: str, toggles: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return a row a case, or of logits [batch, tokens.

    Vocabulary] a row a token that is no padding.
    """
    feeds: Arrays = {**batch.feeds, INPUT: toggles}
    values = engine.run(feeds)[output]
    return values if values.ndim < 3 or batch.mask is None else np.asarray(values[batch.mask])


def by_submodule(losses: Losses, sites: Mapping[str, str]) -> tuple[Group, ...]:
    """Return the losses of every submodule, most harmful first; `sites` are site -> submodule."""
    groups: dict[str, list[float]] = {}
    for part, loss in losses.parts.items():
        groups.setdefault({**sites, **losses.submodules}[part], []).append(loss)
    totals = [Group(name, sum(each), len(each)) for name, each in groups.items()]
    return tuple(sorted(totals, key=lambda group: (-group.loss, group.name)))


def dump_losses(losses: Losses) -> bytes:
    """Return the JSON document."""
    return canonical({"version": 1, **asdict(losses)})


def parse_losses(data: bytes, *, where: str) -> Losses:
    """Read the document; raises `BadInput` when it is not one."""
    try:
        document = json.loads(data)
        if document.pop("version") != 1:
            raise BadInput(f"{where} is of another version: delete it, and it is measured again")
        return Losses(**document)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadInput(
            f"{where} holds no measured losses ({exc!r}): delete it, and it is measured again"
        ) from exc


def output_loss(
    task: Task, exact: NDArray[np.float32], quantized: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return how far each output is from full precision's: [N, D], [N, D] -> [N], 0 is none.

    Embeddings: 1 - cosine. Logits: the divergence KL(exact || quantized) of their softmax in nats,
    because agreement of the largest class is 1 for nearly every case and ranks nothing.
    """
    if TRAITS[task].fidelity == "cosine":
        return 1.0 - cosine(exact, quantized)
    if TRAITS[task].fidelity == "own":
        return _flat_loss(exact, quantized)
    before, after = (_log_softmax(finite_rows(side, "measured")) for side in (exact, quantized))
    divergence: NDArray[np.float64] = (np.exp(before) * (before - after)).sum(axis=1)
    return np.maximum(divergence, 0.0)


def mean_loss(task: Task, exact: NDArray[np.float32], quantized: NDArray[np.float32]) -> float:
    """Return the mean of `output_loss` over rows, whatever axes stand before the last.

    A model that writes has one row for each place of a text.
    """
    if TRAITS[task].fidelity != "own" and exact.ndim > 2 and exact.shape == quantized.shape:
        exact, quantized = (side.reshape(-1, side.shape[-1]) for side in (exact, quantized))
    return float(output_loss(task, exact, quantized).mean())


def _flat_loss(exact: NDArray[np.float32], quantized: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return 1 - cosine of each case's whole output; 1 where it has another size."""
    if exact.shape != quantized.shape or not exact.ndim:
        return np.ones(len(np.atleast_1d(exact)))
    both = (np.reshape(side, (len(side), -1)) for side in (exact, quantized))
    return np.array([1.0 - cosine_of(before, after) for before, after in zip(*both, strict=True)])


def by_loss(ranking: Sequence[Sensitivity], losses: Mapping[str, float]) -> tuple[Sensitivity, ...]:
    """Rank by measured losses, most sensitive first.

    Equal ones, and ones not measured, by the local error.
    """
    ranked = [replace(item, loss=losses.get(item.site)) for item in ranking]
    return tuple(
        sorted(ranked, key=lambda item: (-losses.get(item.site, 0.0), -item.error, item.site))
    )


def recorded_losses(rows: Json) -> dict[str, float] | None:
    """Return site -> measured loss of a release's facts, without the sites that were not measured.

    None where none was.
    """
    entries = (
        [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list | tuple) else []
    )
    losses = {
        str(row["site"]): float(row["loss"])
        for row in entries
        if isinstance(row.get("loss"), int | float)
    }
    return losses or None


def spread(payloads: Sequence[Payload], count: int) -> tuple[Payload, ...]:
    """Return so many payloads, evenly from the whole sequence: the same ones every time."""
    if len(payloads) <= count:
        return tuple(payloads)
    return tuple(payloads[int(place)] for place in np.linspace(0, len(payloads) - 1, count))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def rank(
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    choices: Mapping[str, SiteQuantizer],
    weights: Mapping[str, Sequence[NDArray[np.float32]]],
    schemes: Mapping[str, WeightScheme],
    deployed: Scales | None = None,
) -> tuple[Sensitivity, ...]:
    """Rank the sites by their local errors, most sensitive first.

    Args:
        sites: All sites.
        observed: What each saw.
        choices: What each one's activation becomes.
        weights: One a layer of each site, [outputs, inputs...].
        schemes: How they are stored; a site that is cast has none, and costs nothing.
        deployed: The champion's quantizers, where its placement is kept: `stale` is their error.
    """
    stale = {
        name: _error(
            observed[name], SiteQuantizer(item, item.smoothing_scales), weights[name], scheme
        )
        for name, item in (deployed or {}).items()
        if (scheme := schemes.get(name)) is not None and observed[name].histogram.total
    }
    work = {site.name: float(sum(weight.size for weight in weights[site.name])) for site in sites}
    total = sum(work.values())
    ranked = [
        Sensitivity(
            site.name,
            _error(
                observed[site.name], choices[site.name], weights[site.name], schemes.get(site.name)
            ),
            work[site.name] / total,
            stale=stale.get(site.name),
        )
        for site in sites
    ]
    return tuple(sorted(ranked, key=lambda item: (-item.error, item.site)))


def _error(
    observed: SiteObservation,
    choice: SiteQuantizer,
    weights: Sequence[NDArray[np.float32]],
    scheme: WeightScheme | None,
) -> float:
    if scheme is None:
        return 0.0
    if observed.rows.size:
        return choice_error(observed, weights, choice, scheme)
    if choice.activation is None:
        return _weight_error(weights)
    if choice.smoothing_scales is not None:
        weights = [multiplied(weight, choice.smoothing_scales) for weight in weights]
    smoothed = histogram(observed, choice.smoothing_scales)
    signal = max(_mean_square(smoothed), np.finfo(np.float64).tiny)
    noise = squared_error(smoothed, choice.activation.amax) / signal
    return noise + _weight_error(weights)


def _weight_error(weights: Sequence[NDArray[np.float32]]) -> float:
    """Return the squared rounding error of the weights in INT8 / squared weights."""
    flat = np.concatenate([weight.ravel() for weight in weights])
    rounded = np.concatenate(
        [quantize(weight, WeightScheme()).dequantized().ravel() for weight in weights]
    )
    return relative_error(flat, rounded)


def _mean_square(histogram: ExponentHistogram) -> float:
    centres = np.minimum(CENTRES, histogram.amax)
    return float((histogram.counts[:FINITE_BINS] * centres**2).sum() / max(histogram.total, 1))
