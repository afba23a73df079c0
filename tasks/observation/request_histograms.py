"""What a quantizer sees of each request by itself.

A rule that searches a clip can then leave out the few requests on which a clip costs most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from infra.errors import BadInput
from tasks.graphs.sites import Site
from tasks.models.batches import CASES
from tasks.models.inputs import Inputs
from tasks.numerics.histogram import EDGES, FINITE_BINS, ExponentHistogram
from tasks.numerics.output_error import bin_errors
from tasks.observation.cases import by_case, real_places
from tasks.observation.ceilings import Ceilings
from tasks.observation.counting import divide, on_host
from tasks.observation.request_amax import SiteValues
from tasks.observation.watch import run_ahead
from tasks.records import Payload

LEFT_OUT = 2.5
"""Times the least support: at its very border, an attacker's own part would still move what is left
out.
"""
VERSION = 1
_FIELDS = ("bins", "counts", "weights", "figures")


@dataclass(frozen=True, slots=True, eq=False)
class RequestHistograms:
    """One quantizer's input, request by request, as if clipped at its ceiling."""

    bins: NDArray[np.int64]  # [used], of the exponent histogram
    counts: NDArray[np.int64]  # [requests, used]
    weights: NDArray[
        np.float64
    ]  # [requests], the fraction of the traffic that each stands for; they sum up to 1
    amax: float
    left_out: float  # fraction of the traffic

    def cost(self, clip: float) -> float:
        """Return the expected squared error of INT8 with this clip, without the dearest requests.

        Each request counts by its weight. It is a trimmed mean: whoever sends less than is left out
        decides nothing by sending what a clip ruins.
        """
        totals = np.maximum(self.counts.sum(axis=1), 1)
        errors = self.counts @ bin_errors(self.bins, clip, self.amax) / totals
        order = np.argsort(errors, kind="stable")
        before = np.cumsum(self.weights[order]) - self.weights[order]
        counting = np.clip(1 - self.left_out - before, 0.0, self.weights[order])
        return float((counting * errors[order]).sum() / counting.sum())


def watch_histograms(
    instrumented: Engine,
    sites: tuple[Site, ...],
    inputs: Inputs,
    payloads: Sequence[Payload],
    smoothing_scales: Mapping[str, NDArray[np.float32]],
    *,
    weights: NDArray[np.float64],
    ceilings: Ceilings,
    support: float,
    cases: int = CASES,
) -> dict[str, RequestHistograms]:
    """Run the model once and count each request by itself, as a deployed graph's quantizers see it.

    Sites whose rows belong to no known request are left out.

    Args:
        instrumented: The full-precision model with every site's activations.
        sites: What to look at.
        inputs: How payloads become feeds.
        payloads: One a request.
        smoothing_scales: By site, those of the deployed graph, [channels].
        weights: How much of the traffic each request stands for, [requests], positive.
        ceilings: Where values count as clipped.
        support: The fraction of the traffic that has to agree on a shift before scales follow it.
        cases: How many payloads run at a time.
    """
    histograms: dict[str, list[tuple[int, ExponentHistogram]]] = {site.name: [] for site in sites}
    unknown: set[str] = set()
    for batch, exposed in run_ahead(instrumented, inputs, payloads, cases):
        for site in sites:
            values = exposed[site.tensor]
            if site.name in smoothing_scales:
                values = divide(values, smoothing_scales[site.name], site.channel_axis)
            parted = by_case(on_host(values), len(batch.cases), batch.mask, site.channel_axis)
            if parted is None:
                unknown.add(site.name)
                continue
            real = real_places(parted, batch.mask)
            for row, case in enumerate(batch.cases.tolist()):
                histograms[site.name].append((case, ExponentHistogram.of(parted[row][real[row]])))
    fractions = weights / weights.sum()
    limits = {
        site.name: ceilings.get(SiteValues(site.name, site.name in smoothing_scales), np.inf)
        for site in sites
    }
    return {
        name: _joined(rows, fractions, limits[name], LEFT_OUT * support)
        for name, rows in histograms.items()
        if rows and name not in unknown
    }


def _joined(
    rows: Sequence[tuple[int, ExponentHistogram]],
    fractions: NDArray[np.float64],
    ceiling: float,
    left_out: float,
) -> RequestHistograms:
    counts = np.stack([histogram.counts[:FINITE_BINS] for _, histogram in rows])
    amax = min(max(histogram.amax for _, histogram in rows), ceiling)
    top = int(np.searchsorted(EDGES, amax, side="right")) - 1
    counts[:, top] += counts[:, top + 1 :].sum(axis=1)
    counts[:, top + 1 :] = 0
    bins = np.flatnonzero(counts.any(axis=0))
    return RequestHistograms(
        bins, counts[:, bins], fractions[[case for case, _ in rows]], amax, left_out
    )


def dump_histograms(histograms: Mapping[str, RequestHistograms]) -> bytes:
    """Return one NumPy archive without pickles."""
    names = sorted(histograms)
    arrays: dict[str, np.ndarray] = {"version": np.asarray(VERSION), "sites": np.asarray(names)}
    for index, name in enumerate(names):
        site = histograms[name]
        figures = np.asarray([site.amax, site.left_out])
        parts = (site.bins, site.counts, site.weights, figures)
        arrays |= {f"{index}.{field}": part for field, part in zip(_FIELDS, parts, strict=True)}
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own options
    return buffer.getvalue()


def parse_histograms(data: bytes, *, where: str) -> dict[str, RequestHistograms]:
    """Read the archive; raises `BadInput` when it is damaged or of another version."""
    histograms = {}
    try:
        with np.load(BytesIO(data), allow_pickle=False) as arrays:
            version = int(arrays["version"])
            for index, name in enumerate(arrays["sites"]):
                bins, counts, weights, figures = (arrays[f"{index}.{field}"] for field in _FIELDS)
                histograms[str(name)] = RequestHistograms(
                    bins, counts, weights, float(figures[0]), float(figures[1])
                )
    except Exception as exc:  # damaged bytes raise whatever zipfile, zlib and NumPy trip over
        raise BadInput(
            f"{where} holds no requests ({exc!r}): delete it, and they are observed again"
        ) from exc
    if version != VERSION:
        raise BadInput(f"{where} has version {version}, and {VERSION} is read here: delete it")
    return histograms
