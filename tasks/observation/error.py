"""What INT8 costs, from a histogram alone: the MSE rule minimises it, the range lens holds live traffic against it."""

import numpy as np

from tasks.observation.histogram import CENTRES, EDGES, FINITE_BINS, ExponentHistogram

LEVELS = 127
_UPPER = np.append(EDGES[1:], 2.0**128)


def squared_error(histogram: ExponentHistogram, clip: float) -> float:
    """Expected squared error of INT8 with this clip: rounding step^2 / 12 inside, (|x| - clip)^2 outside.

    Banner, Nahshan and Soudry, "Post training 4-bit quantization" (2019), section 3, each bin taken as uniform: at the
    bins' centres alone, a clip inside the topmost bin would look free.
    """
    counts = histogram.counts[:FINITE_BINS]
    used = np.flatnonzero(counts)
    low, high = EDGES[used], np.minimum(_UPPER[used], histogram.amax)
    below, above = np.maximum(low - clip, 0.0), np.maximum(high - clip, 0.0)
    # The mean of (x - clip)^2 over the bin, of which a share lies outside.
    share = np.divide(above - below, high - low, out=(high > clip).astype(np.float64), where=high > low)
    outside = share * (below**2 + below * above + above**2) / 3
    # Rounding cannot cost more than the value itself, which matters for the many near-zero elements.
    inside = (1 - share) * np.minimum((clip / LEVELS) ** 2 / 12, CENTRES[used] ** 2)
    return float((counts[used] * (outside + inside)).sum() / histogram.total)
