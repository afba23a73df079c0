"""A histogram of |x| whose bins are the float's own exponent and top mantissa bits.

No range has to be known beforehand, so one pass is enough, and counts add across batches, shards,
machines and days. Every range rule and the range-drift detector read from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 2048
"""8 exponent bits and 3 mantissa bits: bins are at most 12.5 % wide."""
FINITE_BINS = 2040
"""Bins from here on hold infinities and NaN."""
NAN_BIN = 2044
"""Where every NaN is counted: that of the quiet NaN without a payload."""
CHUNK = 1 << 15

EDGES: NDArray[np.float64] = (
    (np.arange(FINITE_BINS, dtype=np.uint32) << 20).view(np.float32).astype(np.float64)
)
"""Lower edge of each finite bin, [2040]."""
CENTRES: NDArray[np.float64] = (EDGES + np.append(EDGES[1:], 2.0**128)) / 2
"""Middle of each finite bin, [2040]."""


@dataclass(frozen=True, slots=True, eq=False)
class ExponentHistogram:
    """Counts of |x| per bin, [2048], with the exact largest finite magnitude."""

    counts: NDArray[np.int64]
    amax: float

    @classmethod
    def empty(cls) -> ExponentHistogram:
        """Return the neutral element of `+`."""
        return cls(np.zeros(BINS, np.int64), 0.0)

    @classmethod
    def of(cls, values: NDArray[np.float32], largest: float | None = None) -> ExponentHistogram:
        """Bin every element of an array of any shape.

        `largest` is max |x| where it is known already.
        """
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        counts = with_one_nan(_count(flat.view(np.uint32)))
        if largest is None:
            largest = float(max(flat.max(initial=0.0), -flat.min(initial=0.0)))
        if not np.isfinite(largest):
            largest = float(np.abs(flat[np.isfinite(flat)]).max(initial=0.0))
        return cls(counts, largest)

    def __add__(self, other: ExponentHistogram) -> ExponentHistogram:
        """Return the histogram of both data sets together; commutative and associative."""
        return ExponentHistogram(self.counts + other.counts, max(self.amax, other.amax))

    def __eq__(self, other: object) -> bool:
        """Compare counts and same largest magnitude."""
        if not isinstance(other, ExponentHistogram):
            return NotImplemented
        return self.amax == other.amax and bool(np.array_equal(self.counts, other.counts))

    __hash__ = None  # type: ignore[assignment]  # holds an array

    @property
    def total(self) -> int:
        """The number of finite elements."""
        return int(self.counts[:FINITE_BINS].sum())

    @property
    def nonfinite(self) -> int:
        """The number of infinities and NaN."""
        return int(self.counts[FINITE_BINS:].sum())

    def fraction_above(self, threshold: float) -> float:
        """Return the fraction of finite elements with |x| > threshold, linear inside a bin.

        0 when empty.
        """
        if not self.total or threshold >= self.amax:
            return 0.0
        return float((self.counts[:FINITE_BINS] * _fraction_above(threshold)).sum() / self.total)

    def quantile(self, q: float) -> float:
        """Return the magnitude below which a fraction `q` of the finite elements lies.

        It is 0 when there are none.
        """
        if not self.total:
            return 0.0
        counts = self.counts[:FINITE_BINS]
        cumulative = np.cumsum(counts)
        index = int(np.searchsorted(cumulative, q * self.total, side="left"))
        index = min(index, int(np.flatnonzero(counts)[-1]))
        inside = (q * self.total - (cumulative[index] - counts[index])) / max(int(counts[index]), 1)
        upper = EDGES[index + 1] if index + 1 < FINITE_BINS else self.amax
        return float(min(EDGES[index] + np.clip(inside, 0, 1) * (upper - EDGES[index]), self.amax))


def with_one_nan(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the same counts [2048] with all NaN in one bin.

    A payload depends on which processor computed it.
    """
    counts[NAN_BIN] = counts[FINITE_BINS + 1 :].sum()
    counts[FINITE_BINS + 1 : NAN_BIN] = counts[NAN_BIN + 1 :] = 0
    return counts


def _count(bits: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Count elements per bin, from the floats' bits without the sign.

    It goes in pieces that stay in the cache.
    """
    counts, bins = np.zeros(BINS, np.int64), np.empty(CHUNK, np.int64)
    for start in range(0, bits.size, CHUNK):
        piece = bins[: min(CHUNK, bits.size - start)]
        np.right_shift(bits[start : start + CHUNK], 20, out=piece, casting="unsafe")
        piece &= 0x7FF
        counts += np.bincount(piece, minlength=BINS)
    return counts


def _fraction_above(threshold: float) -> NDArray[np.float64]:
    """Return the fraction of each finite bin that lies above the threshold, [2040]."""
    upper = np.append(EDGES[1:], 2.0**128)
    return np.clip((upper - threshold) / (upper - EDGES), 0.0, 1.0)
