"""How far each request goes at every deployed quantizer: a shift that many share, or a few that reach far alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.graphs.sites import Site
from tasks.models.inputs import Inputs
from tasks.observation.counting import Values, divide, on_host
from tasks.observation.observer import ROWS, Observer, SiteObservation
from tasks.observation.request_amax import by_case, real_places
from tasks.observation.watch import run_ahead
from tasks.records import Payload


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """One row a request, one column a site, as its quantizer sees it; NaN where rows belong to no known request."""

    sites: tuple[str, ...]
    above: NDArray[np.float64]  # [requests, sites], the share of |x| above the deployed amax
    peak: NDArray[np.float64]  # [requests, sites], the largest |x|

    def rows(self, chosen: NDArray[np.bool_]) -> Reach:
        """Some of the requests: a mask [requests]."""
        return Reach(self.sites, self.above[chosen], self.peak[chosen])


def watch_reach(
    instrumented: Engine,
    sites: tuple[Site, ...],
    inputs: Inputs,
    payloads: Sequence[Payload],
    amax: Mapping[str, float],
    divisors: Mapping[str, NDArray[np.float32]] | None = None,
    rows: int = ROWS,
) -> tuple[dict[str, SiteObservation], Reach]:
    """`tasks.observation.watch.watch`, and in the same pass how far each request goes against the deployed amax."""
    factors = divisors or {}
    observer = Observer(sites, factors, rows)
    above, peak = (np.full((len(payloads), len(sites)), np.nan) for _ in range(2))
    for batch, exposed in run_ahead(instrumented, inputs, payloads):
        observer.update(exposed, batch.cases, batch.mask)
        for place, site in enumerate(sites):
            found = by_case(
                _seen(exposed[site.tensor], site, factors),
                len(batch.cases),
                batch.mask,
                site.channel_axis,
            )
            if found is not None:
                over = (found > amax[site.name]).sum(axis=(1, 2))
                elements = real_places(found, batch.mask).sum(axis=1) * found.shape[-1]
                above[batch.cases, place] = over / np.maximum(elements, 1)
                peak[batch.cases, place] = found.max(axis=(1, 2), initial=0.0)
    return observer.result(), Reach(tuple(site.name for site in sites), above, peak)


def _seen(
    values: Values, site: Site, factors: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    scaled = (
        divide(values, factors[site.name], site.channel_axis) if site.name in factors else values
    )
    return on_host(scaled)
