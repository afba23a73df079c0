"""One pass over the data: what every site's quantizer would see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.observation.histogram import ExponentHistogram
from tasks.observation.sites import Site

ROWS = 192
"""Activation rows kept per site, for the searches that need joint values and not only ranges."""


@dataclass(frozen=True, slots=True, eq=False)
class SiteObservation:
    """What one site saw."""

    histogram: ExponentHistogram  # of |x|
    channel_low: NDArray[np.float32]  # [channels], the least value of each
    channel_high: NDArray[np.float32]  # [channels], the largest
    rows: NDArray[np.float32]  # [at most ROWS, channels]; empty where the site cannot be smoothed

    @property
    def channel_amax(self) -> NDArray[np.float32]:
        """Largest magnitude per channel, [channels]."""
        return np.maximum(np.abs(self.channel_low), np.abs(self.channel_high))


class Observer:
    """Adds up batches; the result does not depend on how the data were batched.

    `divisors` (site name -> [channels]) are the smoothing factors of a deployed graph: with them, the observer
    sees what that graph's quantizers see.
    """

    def __init__(self, sites: tuple[Site, ...], divisors: Mapping[str, NDArray[np.float32]] | None = None) -> None:
        self._sites = sites
        self._divisors = divisors or {}
        self._histograms = {site.name: ExponentHistogram.empty() for site in sites}
        self._extremes: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        self._rows: dict[str, tuple[NDArray[np.uint64], NDArray[np.float32]]] = {}

    def update(
        self,
        tensors: Mapping[str, NDArray[np.float32]],
        cases: NDArray[np.int64],
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add one batch: site tensors [batch, ...], the number of each case [batch], valid tokens [batch, tokens]."""
        drawn: dict[int, _Draw] = {}
        for site in self._sites:
            values = tensors[site.tensor]
            if site.channel_axis == 1:
                self._add_images(site, values)
                continue
            per_case = int(np.prod(values.shape[1:-1]))
            if per_case not in drawn:
                drawn[per_case] = _draw(cases, per_case, mask)
            self._add_rows(site, values, drawn[per_case])

    def result(self) -> dict[str, SiteObservation]:
        """Everything seen so far, by site name."""
        nothing = np.zeros(0, np.float32)
        return {
            site.name: SiteObservation(
                self._histograms[site.name],
                *self._extremes.get(site.name, (nothing, nothing)),
                self._rows[site.name][1] if site.name in self._rows else np.zeros((0, 0), np.float32),
            )
            for site in self._sites
        }

    def _add_images(self, site: Site, values: NDArray[np.float32]) -> None:
        others = tuple(axis for axis in range(values.ndim) if axis != 1)
        self._count(site, values, values.min(axis=others, initial=0.0), values.max(axis=others, initial=0.0))

    def _add_rows(self, site: Site, values: NDArray[np.float32], drawn: _Draw) -> None:
        rows = values.reshape(-1, values.shape[-1])
        if drawn.real is not None:
            rows = rows[drawn.real]
        if site.name in self._divisors:
            rows = rows / self._divisors[site.name]
        self._count(site, rows, rows.min(axis=0, initial=0.0), rows.max(axis=0, initial=0.0))
        self._keep_rows(site, drawn.keys, rows[drawn.chosen])

    def _count(
        self, site: Site, values: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]
    ) -> None:
        largest = float(max(high.max(initial=0.0), -low.min(initial=0.0)))
        self._histograms[site.name] += ExponentHistogram.of(values, largest)
        self._widen(site, low, high)

    def _widen(self, site: Site, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Zero is always inside: it must stay exact, because padding is made of it."""
        if site.name in self._extremes:
            before, after = self._extremes[site.name]
            low, high = np.minimum(before, low), np.maximum(after, high)
        self._extremes[site.name] = (low, high)

    def _keep_rows(self, site: Site, keys: NDArray[np.uint64], rows: NDArray[np.float32]) -> None:
        """Bottom-k by the hash of the row's number: a uniform sample that batching cannot change."""
        if site.name in self._rows:
            old_keys, old_rows = self._rows[site.name]
            keys, rows = np.concatenate([old_keys, keys]), np.concatenate([old_rows, rows])
            keep = np.argsort(keys, kind="stable")[:ROWS]
            keys, rows = keys[keep], rows[keep]
        self._rows[site.name] = (keys, rows)


@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """Which rows of a batch count, and which of those are candidates for the sample; the same for many sites."""

    real: NDArray[np.intp] | None  # rows that are no padding; None where all are
    chosen: NDArray[np.intp]  # at most ROWS of the real ones, by their keys
    keys: NDArray[np.uint64]  # of the chosen


def _draw(cases: NDArray[np.int64], per_case: int, mask: NDArray[np.bool_] | None) -> _Draw:
    numbers = (cases.astype(np.uint64)[:, None] << np.uint64(24)) + np.arange(per_case, dtype=np.uint64)[None, :]
    keys, real = _mix(numbers.reshape(-1)), None
    if mask is not None and mask.size == len(keys) and not mask.all():
        real = np.flatnonzero(mask)
        keys = keys[real]
    chosen = np.argsort(keys, kind="stable")[:ROWS]
    return _Draw(real, chosen, keys[chosen])


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea and Flood, 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
