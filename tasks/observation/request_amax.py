"""How large each single request's values are at every site: what tells an outlier from a shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.graphs.sites import Site
from tasks.models.batches import CASES
from tasks.models.inputs import Inputs
from tasks.observation.cases import by_case
from tasks.observation.counting import on_host
from tasks.observation.watch import run_ahead
from tasks.records import Payload

_SCALED = " / factors"


@dataclass(frozen=True, slots=True)
class SiteValues:
    """What a column is about: a site's values, or those divided by a deployed graph's scales."""

    site: str
    smoothed: bool = False

    @property
    def stored(self) -> str:
        """The name in stored documents and sentences, where scales have an older word."""
        return self.site + _SCALED if self.smoothed else self.site

    @classmethod
    def of(cls, stored: str) -> SiteValues:
        """Read what `stored` gave."""
        return cls(stored.removesuffix(_SCALED), stored.endswith(_SCALED))


@dataclass(frozen=True, slots=True, eq=False)
class RequestAmax:
    """One row a request, one column a site; with smoothing scales, a site has a second column.

    Infinite where the request's activations are infinite or NaN, and 0 where nothing of it arrived
    at the site.
    """

    columns: tuple[SiteValues, ...]
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
    cases: int = CASES,
) -> RequestAmax:
    """Run the instrumented full-precision model once over the payloads, off the serving path.

    `smoothing_scales` (site name -> [channels]) are those of a deployed graph, whose quantizers see
    x / smoothing_scales. So many `cases` run at a time.
    """
    scales = smoothing_scales or {}
    columns = _columns(sites, scales)
    shape = (len(payloads), len(columns))
    result = RequestAmax(tuple(columns), np.zeros(shape), np.zeros(shape))
    for batch, exposed in run_ahead(instrumented, inputs, payloads, cases):
        for site in sites:
            values = on_host(exposed[site.tensor])
            magnitudes = by_case(values, len(batch.cases), batch.mask, site.channel_axis)
            if magnitudes is None:
                continue
            result._note(batch.cases, columns[SiteValues(site.name)], magnitudes)
            if site.name in scales:
                column = columns[SiteValues(site.name, smoothed=True)]
                result._note(batch.cases, column, magnitudes / scales[site.name])
    return result


def _columns(
    sites: tuple[Site, ...], scales: Mapping[str, NDArray[np.float32]]
) -> dict[SiteValues, int]:
    """Return the place of every column: a site's values, then the same divided by its scales."""
    columns: list[SiteValues] = []
    for site in sites:
        columns.append(SiteValues(site.name))
        if site.name in scales:
            columns.append(SiteValues(site.name, smoothed=True))
    return {column: place for place, column in enumerate(columns)}


def _figures(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return amax and root mean square of each case: |x| [cases, positions, channels]."""
    flat = values.reshape(len(values), -1)
    peak = flat.max(axis=1, initial=0.0).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        typical = np.sqrt(np.square(flat, dtype=np.float64).mean(axis=1))
    broken = ~np.isfinite(peak) | ~np.isfinite(typical)
    return np.where(broken, np.inf, peak), np.where(broken, np.inf, typical)
