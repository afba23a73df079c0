"""What quantization costs: from a histogram alone, and from an output beside the exact one."""

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.histogram import CENTRES, EDGES, FINITE_BINS, ExponentHistogram

LEVELS = 127
ORDINARY = (1e-9, 1e9)
"""Magnitudes whose products, summed and squared, are normal float32 numbers."""
_UPPER = np.append(EDGES[1:], 2.0**128)


def squared_error(histogram: ExponentHistogram, clip: float) -> float:
    """Expected squared error of INT8 with this clip: rounding step^2 / 12 inside, (|x| - clip)^2 outside.

    Banner, Nahshan and Soudry, "Post training 4-bit quantization" (2019), section 3, each bin taken as uniform: at the
    bins' centres alone, a clip inside the topmost bin would look free. 0 without data.
    """
    if not histogram.total:
        return 0.0
    counts = histogram.counts[:FINITE_BINS]
    used = np.flatnonzero(counts)
    return float((counts[used] * bin_errors(used, clip, histogram.amax)).sum() / histogram.total)


def bin_errors(bins: NDArray[np.integer], clip: float, amax: float) -> NDArray[np.float64]:
    """The expected squared error of one value in each of some bins [used], the topmost of which ends at `amax`."""
    low, high = EDGES[bins], np.minimum(_UPPER[bins], amax)
    below, above = np.maximum(low - clip, 0.0), np.maximum(high - clip, 0.0)
    # The mean of (x - clip)^2 over the bin, of which a share lies outside.
    share = np.divide(
        above - below, high - low, out=(high > clip).astype(np.float64), where=high > low
    )
    outside = share * (below**2 + below * above + above**2) / 3
    # Rounding cannot cost more than the value itself, which matters for the many near-zero elements.
    inside = (1 - share) * np.minimum((clip / LEVELS) ** 2 / 12, CENTRES[bins] ** 2)
    found: NDArray[np.float64] = outside + inside
    return found


def relative_error(exact: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """|| exact - found ||^2 / || exact ||^2 in float64, at most 1e30: squares of 1e30 are no float32."""
    lost = np.square(exact.astype(np.float64) - found).sum()
    energy = np.square(exact, dtype=np.float64).sum()
    return float(min(lost / max(energy, np.finfo(np.float64).tiny), 1e30))


def widened(values: NDArray[np.float32], *others: NDArray[np.float32]) -> NDArray[np.floating]:
    """The values as they are, or in float64 where products with the others would leave float32: of any shapes."""
    largest = [float(np.abs(one).max(initial=0.0)) for one in (values, *others)]
    ordinary = all(not one or ORDINARY[0] < one < ORDINARY[1] for one in largest)
    return values if ordinary else values.astype(np.float64)
