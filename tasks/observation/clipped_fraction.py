"""How much of each request every deployed quantizer clips.

It tells a shift that many requests have in common from a few that go far alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.graphs.sites import Site
from tasks.models.batches import CASES
from tasks.models.inputs import Inputs
from tasks.observation.cases import by_case, real_places
from tasks.observation.counting import Values, divide, on_host
from tasks.observation.observer import ROWS, Observer, SiteObservation
from tasks.observation.watch import run_ahead
from tasks.records import Payload


@dataclass(frozen=True, slots=True, eq=False)
class Clipping:
    """One row a request, one column a site, as its quantizer sees it.

    NaN where rows belong to no known request.
    """

    sites: tuple[str, ...]
    fraction: NDArray[np.float64]  # [requests, sites], of |x| above the deployed amax
    amax: NDArray[np.float64]  # [requests, sites], the request's own largest |x|

    def rows(self, chosen: NDArray[np.bool_]) -> Clipping:
        """Return some of the requests: a mask [requests]."""
        return Clipping(self.sites, self.fraction[chosen], self.amax[chosen])


def watch_clipping(
    instrumented: Engine,
    sites: tuple[Site, ...],
    inputs: Inputs,
    payloads: Sequence[Payload],
    amax: Mapping[str, float],
    smoothing_scales: Mapping[str, NDArray[np.float32]] | None = None,
    rows: int = ROWS,
    cases: int = CASES,
) -> tuple[dict[str, SiteObservation], Clipping]:
    """Observe as `tasks.observation.watch.watch` does, and see in the same pass what requests clip.

    Args:
        instrumented: The full-precision model with every site's activations.
        sites: What to look at.
        inputs: How payloads become feeds.
        payloads: One a request.
        amax: By site, the largest magnitude that its deployed quantizer represents.
        smoothing_scales: By site, those of a deployed graph, [channels].
        rows: Kept at most of every site.
        cases: Of so many payloads at a time.
    """
    scales = smoothing_scales or {}
    observer = Observer(sites, scales, rows)
    shape = (len(payloads), len(sites))
    clipping = Clipping(
        tuple(site.name for site in sites), np.full(shape, np.nan), np.full(shape, np.nan)
    )
    for batch, exposed in run_ahead(instrumented, inputs, payloads, cases):
        observer.update(exposed, batch.cases, batch.mask)
        for column, site in enumerate(sites):
            values = _divided(exposed[site.tensor], site, scales)
            magnitudes = by_case(values, len(batch.cases), batch.mask, site.channel_axis)
            if magnitudes is not None:
                # A request that comes in chunks is as bad as its worst.
                above = _fraction_above(magnitudes, amax[site.name], batch.mask)
                place = (batch.cases, column)
                clipping.fraction[place] = np.fmax(clipping.fraction[place], above)
                largest = magnitudes.max(axis=(1, 2), initial=0.0)
                clipping.amax[place] = np.fmax(clipping.amax[place], largest)
    return observer.result(), clipping


def _fraction_above(
    magnitudes: NDArray[np.float32], amax: float, mask: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Return the fraction of each case's elements above amax.

    Magnitudes are [cases, positions, channels]; the result is [cases].
    """
    above = (magnitudes > amax).sum(axis=(1, 2))
    elements = real_places(magnitudes, mask).sum(axis=1) * magnitudes.shape[-1]
    fraction: NDArray[np.float64] = above / np.maximum(elements, 1)
    return fraction


def _divided(
    values: Values, site: Site, scales: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    if site.name in scales:
        values = divide(values, scales[site.name], site.channel_axis)
    return on_host(values)
