"""One pass over the data: what every site's quantizer would see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.graphs.sites import Site
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.counting import (
    Counted,
    Values,
    divide,
    fetch,
    on_host,
    start,
    take,
    take_pixels,
)

ROWS = 192
"""Activation rows kept per site, for the searches that need joint values and not only ranges."""

MANY_ROWS = 4096
"""Kept in a pass of its own where GPTQ learns to round to few bits: 192 rows of 512 inputs overfit.
"""

NOTHING_KEPT: NDArray[np.float32] = np.zeros((0, 0), np.float32)
"""Rows or pixels of a site that has none."""

_TOKEN_BITS = np.uint64(24)


@dataclass(frozen=True, slots=True, eq=False)
class SiteObservation:
    """What one site saw."""

    histogram: ExponentHistogram  # of |x|
    channel_low: NDArray[np.float32]  # [channels], the least value of each
    channel_high: NDArray[np.float32]  # [channels], the largest
    rows: NDArray[
        np.float32
    ]  # [kept, channels], ROWS unless more were asked for; empty where nothing can be smoothed
    broken: Mapping[int, int] = field(
        default_factory=dict
    )  # case -> infinities and NaN; -1 where no case is known
    pixels: NDArray[np.float32] = field(
        default_factory=NOTHING_KEPT.copy
    )  # [kept, channels] of images, empty elsewhere

    @property
    def channel_amax(self) -> NDArray[np.float32]:
        """The largest magnitude per channel, [channels]."""
        return np.maximum(np.abs(self.channel_low), np.abs(self.channel_high))

    @property
    def kept(self) -> NDArray[np.float32]:
        """The joint values of the channels, [kept, channels]: rows, or pixels of images."""
        return self.rows if self.rows.size else self.pixels


class Observer:
    """Adds up batches; the result does not depend on how the data were batched.

    `smoothing_scales` (site name -> [channels]) are those of a deployed graph. With them, the
    observer sees what that graph's quantizers see. `rows` are kept at most of every site.
    """

    def __init__(
        self,
        sites: tuple[Site, ...],
        smoothing_scales: Mapping[str, NDArray[np.float32]] | None = None,
        rows: int = ROWS,
    ) -> None:
        self._sites = sites
        self._most = rows
        self._smoothing_scales = smoothing_scales or {}
        self._histograms = {site.name: ExponentHistogram.empty() for site in sites}
        self._extremes: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        self._rows: dict[str, tuple[NDArray[np.uint64], NDArray[np.float32]]] = {}
        self._broken: dict[str, Counter[int]] = {site.name: Counter() for site in sites}
        # Adds what a device still counts: of one site, while the next is queued.
        self._unfinished: Callable[[], None] | None = None

    def update(
        self,
        tensors: Mapping[str, Values],
        cases: NDArray[np.int64],
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add one batch; tensors on a device are counted there.

        Args:
            tensors: By name, the sites' tensors, [batch, ...].
            cases: The number of each case, [batch].
            mask: Which tokens are no padding, [batch, tokens].
        """
        numbered: dict[tuple[int, ...], _Rows] = {}
        for site in self._sites:
            values = tensors[site.tensor]
            if not site.layers:  # a range is all that is asked of it
                self._count(site, values.reshape(len(values), 1, -1), 1, cases)
                continue
            if site.channel_axis == 1:
                shape = (len(values), 1, *values.shape[2:])
                if shape not in numbered:
                    numbered[shape] = _rows(shape, cases, None, self._most)
                self._add_images(site, values, cases, numbered[shape])
                continue
            shape = tuple(values.shape[:-1])
            if shape not in numbered:
                numbered[shape] = _rows(shape, cases, mask, self._most)
            self._add_rows(site, values, numbered[shape])

    def merge(self, other: Observer) -> None:
        """Take in what an observer of other cases saw, with the same sites and scales."""
        self._settle()
        other._settle()
        for site in self._sites:
            name = site.name
            self._histograms[name] += other._histograms[name]
            self._broken[name].update(other._broken[name])
            if name in other._extremes:
                self._widen(site, *other._extremes[name])
            if name in other._rows:
                self._keep_rows(site, *other._rows[name])

    def result(self) -> dict[str, SiteObservation]:
        """Return everything seen so far, by site name."""
        self._settle()
        return {site.name: self._site(site) for site in self._sites}

    def _site(self, site: Site) -> SiteObservation:
        nothing = np.zeros(0, np.float32)
        low, high = self._extremes.get(site.name, (nothing, nothing))
        rows = pixels = NOTHING_KEPT
        if site.name in self._rows and site.channel_axis == 1:
            pixels = self._rows[site.name][1]
        elif site.name in self._rows:
            rows = self._rows[site.name][1]
        return SiteObservation(
            self._histograms[site.name], low, high, rows, dict(self._broken[site.name]), pixels
        )

    def _add_images(
        self, site: Site, values: Values, cases: NDArray[np.int64], numbered: _Rows
    ) -> None:
        if site.name in self._smoothing_scales:
            values = divide(values, self._smoothing_scales[site.name], 1)
        kept = None if numbered.keys is None else take_pixels(values, numbered.chosen)
        self._count(site, values, 1, cases, numbered.keys, kept)

    def _add_rows(self, site: Site, values: Values, numbered: _Rows) -> None:
        rows = values.reshape(-1, values.shape[-1])
        if numbered.real is not None:
            rows = take(rows, numbered.real)
        if site.name in self._smoothing_scales:
            rows = divide(rows, self._smoothing_scales[site.name])
        if numbered.keys is not None:
            kept = take(rows, numbered.chosen)
            self._count(site, rows, -1, numbered.owners, numbered.keys, kept)
            return
        values = on_host(rows)
        keys = _mix(_content(values))
        chosen = np.argsort(keys, kind="stable")[: self._most]
        self._count(site, rows, -1, None, keys[chosen], values[chosen])

    def _count(
        self,
        site: Site,
        values: Values,
        channel_axis: int,
        cases: NDArray[np.int64] | None,
        keys: NDArray[np.uint64] | None = None,
        kept: Values | None = None,
    ) -> None:
        """Start to count values [cases, ...] and to keep rows, and fetch the site before."""
        counting = start(values, channel_axis)
        owners = np.full(len(values), -1) if cases is None or len(cases) != len(values) else cases
        rows = None if kept is None or isinstance(kept, np.ndarray) else fetch(kept)

        def finish() -> None:
            self._add(site, counting(), owners)
            if keys is not None and kept is not None:
                self._keep_rows(site, keys, on_host(kept if rows is None else rows()))

        self._settle()
        if isinstance(values, np.ndarray):
            finish()
        else:
            self._unfinished = finish

    def _settle(self) -> None:
        if self._unfinished is not None:
            finish, self._unfinished = self._unfinished, None
            finish()

    def _add(self, site: Site, counted: Counted, owners: NDArray[np.int64]) -> None:
        """Add to the site's histogram and extremes.

        Infinities and NaN go into the account of each case.
        """
        self._histograms[site.name] += counted.histogram
        if counted.broken is not None:
            for place in np.flatnonzero(counted.broken):
                self._broken[site.name][int(owners[place])] += int(counted.broken[place])
        self._widen(site, counted.low, counted.high)

    def _widen(self, site: Site, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Widen the site's extremes.

        Zero is always inside: padding is made of it, so it must stay exact.
        """
        if site.name in self._extremes:
            before, after = self._extremes[site.name]
            low, high = np.minimum(before, low), np.maximum(after, high)
        # Which of 0 and -0 a minimum returns depends on the order of the batches.
        self._extremes[site.name] = (low + np.float32(0), high + np.float32(0))

    def _keep_rows(self, site: Site, keys: NDArray[np.uint64], rows: NDArray[np.float32]) -> None:
        """Keep the bottom k by the hash of a row's number.

        That is a uniform sample, which no batching changes.
        """
        if site.name in self._rows:
            old_keys, old_rows = self._rows[site.name]
            keys, rows = np.concatenate([old_keys, keys]), np.concatenate([old_rows, rows])
            keep = np.argsort(keys, kind="stable")[: self._most]
            keys, rows = keys[keep], rows[keep]
        self._rows[site.name] = (keys, rows)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """What is known of a tensor's rows before their values are read; the same for many sites."""

    real: NDArray[np.intp] | None  # those that are no padding; None where all are
    owners: NDArray[np.int64] | None  # the case of each real row
    keys: (
        NDArray[np.uint64] | None
    )  # of the chosen; None where only a row's content can tell rows apart
    chosen: NDArray[np.intp]  # at most as many of the real ones as are kept


def _rows(
    shape: tuple[int, ...], cases: NDArray[np.int64], mask: NDArray[np.bool_] | None, most: int
) -> _Rows:
    numbers, real = _numbers((*shape, 1), cases, mask), None
    if mask is not None and mask.size == int(np.prod(shape)) and not mask.all():
        real = np.flatnonzero(mask)
        numbers = None if numbers is None else numbers[real]
    if numbers is None:
        return _Rows(real, None, None, np.zeros(0, np.intp))
    keys = _mix(numbers)
    chosen = np.argsort(keys, kind="stable")[:most]
    return _Rows(real, (numbers >> _TOKEN_BITS).astype(np.int64), keys[chosen], chosen)


def _numbers(
    shape: tuple[int, ...], cases: NDArray[np.int64], mask: NDArray[np.bool_] | None
) -> NDArray[np.uint64] | None:
    """Return a number for each row of a tensor [..., channels]: its case, and its place there.

    Rows are a case's own when the first axis counts cases, or cases times tokens. Others (the
    tokens that were routed to an expert) belong to no known case: None.
    """
    rows = int(np.prod(shape[:-1]))
    if shape[0] != len(cases) and (mask is None or mask.size != rows):
        return None
    places = np.arange(rows // max(len(cases), 1), dtype=np.uint64)
    numbered: NDArray[np.uint64] = (cases.astype(np.uint64)[:, None] << _TOKEN_BITS) + places[
        None, :
    ]
    return numbered.reshape(-1)


def _content(rows: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return a number from each row's own bytes: rows [n, channels] -> [n]."""
    numbers = np.zeros(len(rows), np.uint64)
    for column in np.ascontiguousarray(rows.T, dtype=np.float32).view(np.uint32):
        numbers = _mix(numbers ^ column.astype(np.uint64))
    return numbers


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply SplitMix64's finalizer (Steele, Lea and Flood, 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
