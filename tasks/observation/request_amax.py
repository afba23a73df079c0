"""How far each single request reaches at every site: what tells an outlier from a shift."""

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
class Extents:
    """One row a request, one column a site; a site with a deployed graph's factors has a second one, "SITE / factors".

    Infinite where the request's activations are infinite or NaN, and 0 where nothing of it arrived at the site.
    """

    columns: tuple[str, ...]
    peak: NDArray[np.float64]  # [requests, columns], the largest |x|
    typical: NDArray[np.float64]  # [requests, columns], the root mean square

    def rows(self, chosen: Sequence[int] | NDArray[np.intp]) -> Extents:
        """The same columns for some of the requests, in the order given."""
        index = np.asarray(chosen, np.intp)
        return Extents(self.columns, self.peak[index], self.typical[index])


def extents(
    instrumented: Engine,
    sites: tuple[Site, ...],
    inputs: Inputs,
    payloads: Sequence[Payload],
    divisors: Mapping[str, NDArray[np.float32]] | None = None,
) -> Extents:
    """One pass of the instrumented full-precision model over the payloads, off the serving path.

    `divisors` (site name -> [channels]) are the factors of a deployed graph, whose quantizers see x / divisors.
    """
    divisors = divisors or {}
    columns = [(site, factors) for site in sites for factors in (None, divisors.get(site.name))]
    columns = [
        (site, factors)
        for place, (site, factors) in enumerate(columns)
        if place % 2 == 0 or factors is not None
    ]
    peak, typical = np.zeros((len(payloads), len(columns))), np.zeros((len(payloads), len(columns)))
    for batch, exposed in run_ahead(instrumented, inputs, payloads):
        for place, (site, factors) in enumerate(columns):
            found = by_case(
                on_host(exposed[site.tensor]), len(batch.cases), batch.mask, site.channel_axis
            )
            if found is not None:
                values = found if factors is None else found / factors
                peak[batch.cases, place], typical[batch.cases, place] = _figures(values)
    names = tuple(
        site.name if factors is None else f"{site.name} / factors" for site, factors in columns
    )
    return Extents(names, peak, typical)


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
