"""A histogram of signed numbers on a grid that is the same for everybody.

Quantiles and frozen bins follow from it. Bins are the float32's sign, exponent and top five
mantissa bits, so that no range has to be known beforehand. Every bin is at most 1/32 of its
magnitude wide. Counts add exactly in any order, unlike a KLL sketch's random choices (ADR 17).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

BINS = 1 << 14
"""1 sign bit, 8 exponent bits, 5 mantissa bits."""
WIDTH = 1 / 32
"""Of a bin, relative to the magnitudes in it, at most; a quantile is within half of it."""
_CHUNK = 1 << 15
_HALF = BINS // 2
_FINITE = 255 << 5  # magnitudes from here on are infinities and NaN

_MAGNITUDES: NDArray[np.float64] = (
    (np.arange(_FINITE, dtype=np.uint32) << 18).view(np.float32).astype(np.float64)
)
ORDER: NDArray[np.int64] = np.concatenate([_HALF + np.arange(_FINITE)[::-1], np.arange(_FINITE)])
"""The finite bins from the lowest numbers to the highest."""
LOWER: NDArray[np.float64] = np.concatenate(
    [-np.append(_MAGNITUDES[1:], 2.0**128)[::-1], _MAGNITUDES]
)
"""Where each of them begins."""
UPPER: NDArray[np.float64] = np.append(LOWER[1:], 2.0**128)


@dataclass(frozen=True, eq=False)
class FineHistogram:
    """Counts per bin of the fixed grid, [16384]; `+` is exact, commutative and associative."""

    counts: NDArray[np.int64]

    @classmethod
    def empty(cls) -> FineHistogram:
        """Return the neutral element of `+`."""
        return cls(np.zeros(BINS, np.int64))

    @classmethod
    def of(cls, values: NDArray[np.number]) -> FineHistogram:
        """Bin every number of an array; what float32 cannot hold counts as not finite."""
        counts = np.zeros(BINS, np.int64)
        for start in range(0, values.size, _CHUNK):
            with np.errstate(over="ignore"):
                piece = values[start : start + _CHUNK].astype(np.float32)
            piece += np.float32(0)  # -0 becomes 0
            counts += np.bincount(
                (piece.view(np.uint32) >> np.uint32(18)).astype(np.int64), minlength=BINS
            )
        return cls(counts)

    def __add__(self, other: FineHistogram) -> FineHistogram:
        """Return the histogram of both data sets together."""
        return FineHistogram(self.counts + other.counts)

    def __eq__(self, other: object) -> bool:
        """Return whether the counts are the same."""
        return isinstance(other, FineHistogram) and bool(np.array_equal(self.counts, other.counts))

    __hash__ = None  # type: ignore[assignment]  # holds an array

    @cached_property
    def total(self) -> int:
        """How many finite numbers."""
        return int(self.counts[ORDER].sum())

    @cached_property
    def nonfinite(self) -> int:
        """How many infinities, NaN, and numbers beyond float32."""
        return int(self.counts.sum()) - self.total

    def bins(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Return the bins that hold something: lower edges, upper edges and counts, [used].

        They go from low to high.
        """
        counts = self.counts[ORDER]
        used = np.flatnonzero(counts)
        return LOWER[used], UPPER[used], counts[used]

    def quantile(self, fraction: float) -> float:
        """Return the number below which a `fraction` (0..1) of the finite ones lie.

        It is linear inside a bin, and NaN when there is none.
        """
        low, high, counts = self.bins()
        if not len(counts):
            return float("nan")
        reached = np.cumsum(counts)
        wanted = np.clip(fraction, 0, 1) * reached[-1]
        index = min(int(np.searchsorted(reached, wanted)), len(counts) - 1)
        inside = (wanted - (reached[index] - counts[index])) / counts[index]
        return float(low[index] + inside * (high[index] - low[index]))

    def between(self, edges: Sequence[float]) -> NDArray[np.int64]:
        """Count below, between and above ascending edges of the grid (see `snapped`), [edges + 1].

        Raises:
            BadInput: Edges that do not lie on the grid: their counts would be guesses.
        """
        if not np.array_equal(snapped(edges), np.asarray(edges, np.float64)):
            raise BadInput(
                f"the bin edges {list(edges)} do not lie on the profile's grid: pass them through "
                "`snapped`"
            )
        reached = np.append(0, np.cumsum(self.counts[ORDER]))
        cuts = np.searchsorted(LOWER, np.asarray(edges, np.float64))
        return np.diff(np.concatenate([[0], reached[cuts], reached[-1:]]))


def snapped(edges: Sequence[float]) -> NDArray[np.float64]:
    """Return the nearest edges of the grid, ascending and without repetition.

    They are at most half a bin, 1/64, away.
    """
    wanted = np.asarray(edges, np.float64)
    above = np.clip(np.searchsorted(LOWER, wanted), 1, len(LOWER) - 1)
    nearest = np.where(wanted - LOWER[above - 1] < LOWER[above] - wanted, above - 1, above)
    return np.unique(LOWER[nearest])
