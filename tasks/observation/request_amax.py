"""How large each single request's values are at every site: what tells an outlier from a shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.graphs.sites import Site
from tasks.models.inputs import Inputs
from tasks.observation.counting import on_host
from tasks.observation.watch import run_ahead
from tasks.records import Payload


@dataclass(frozen=True, slots=True, eq=False)
class RequestAmax:
    """One row a request, one column a site.

    A site with a deployed graph's smoothing scales has a second column, "SITE / factors".
    Infinite where the request's activations are infinite or NaN, and 0 where nothing of it arrived
    at the site.
    """

    columns: tuple[str, ...]
    amax: NDArray[np.float64]  # [requests, columns], the largest |x|
    rms: NDArray[np.float64]  # [requests, columns], the root mean square

    def rows(self, chosen: Sequence[int] | NDArray[np.intp]) -> RequestAmax:
        """Return the same columns for some of the requests, in the order given."""
        index = np.asarray(chosen, np.intp)
        return RequestAmax(self.columns, self.amax[index], self.rms[index])

    def _note(self, cases: NDArray[np.int64], column: int, magnitudes: NDArray[np.float32]) -> None:
        """Write some cases' figures: |x| [cases, positions, channels]."""
        self.amax[cases, column], self.rms[cases, column] = _figures(magnitudes)


def watch_amax(
    instrumented: Engine,
    sites: tuple[Site, ...],
    inputs: Inputs,
    payloads: Sequence[Payload],
    smoothing_scales: Mapping[str, NDArray[np.float32]] | None = None,
) -> RequestAmax:
    """Run the instrumented full-precision model once over the payloads, off the serving path.

    `smoothing_scales` (site name -> [channels]) are the smoothing scales of a deployed graph, whose
    quantizers see x / smoothing_scales.
    """
    scales = smoothing_scales or {}
    columns = _columns(sites, scales)
    shape = (len(payloads), len(columns))
    result = RequestAmax(tuple(columns), np.zeros(shape), np.zeros(shape))
    for batch, exposed in run_ahead(instrumented, inputs, payloads):
        for site in sites:
            values = on_host(exposed[site.tensor])
            magnitudes = by_case(values, len(batch.cases), batch.mask, site.channel_axis)
            if magnitudes is None:
                continue
            result._note(batch.cases, columns[site.name], magnitudes)
            if site.name in scales:
                scaled = columns[f"{site.name} / factors"]
                result._note(batch.cases, scaled, magnitudes / scales[site.name])
    return result


def _columns(sites: tuple[Site, ...], scales: Mapping[str, NDArray[np.float32]]) -> dict[str, int]:
    """Return the place of every column by its name: a site's own, then that of its scaled values."""
    names: list[str] = []
    for site in sites:
        names += [site.name, f"{site.name} / factors"] if site.name in scales else [site.name]
    return {name: place for place, name in enumerate(names)}


def by_case(
    values: NDArray[np.float32], cases: int, mask: NDArray[np.bool_] | None, channel_axis: int
) -> NDArray[np.float32] | None:
    """|x| as [cases, positions, channels] with padding as 0; None where rows belong to no known case."""
    if channel_axis == 1:
        values = np.moveaxis(values, 1, -1)
    channels = values.shape[-1]
    positions = values.size // max(channels, 1)
    owned = values.shape[0] == cases or (mask is not None and mask.size == positions)
    if not owned or positions % cases:
        return None
    found: NDArray[np.float32] = np.abs(values.reshape(cases, -1, channels))
    if mask is not None and mask.size == positions:
        found = np.where(mask.reshape(cases, -1, 1), found, np.float32(0))
    return found


def real_places(values: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Which positions of `by_case`'s values are no padding, [cases, positions]; all, where the mask is about others."""
    cases, positions = values.shape[:2]
    if mask is not None and mask.size == cases * positions:
        return mask.reshape(cases, positions)
    return np.ones((cases, positions), bool)


def _figures(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Peak and root mean square of each case: values [cases, positions, channels]."""
    flat = values.reshape(len(values), -1)
    peak = flat.max(axis=1, initial=0.0).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        typical = np.sqrt(np.square(flat, dtype=np.float64).mean(axis=1))
    broken = ~np.isfinite(peak) | ~np.isfinite(typical)
    return np.where(broken, np.inf, peak), np.where(broken, np.inf, typical)
