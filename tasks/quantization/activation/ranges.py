"""Range rules: from one histogram of |x| to the largest magnitude that will be represented.

A scale is amax / 127 in INT8 (symmetric, zero-point 0), amax / 448 in FP8. Every rule reads the
same histogram; none reads the data again.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.numerics.formats import LARGEST, SMALLEST
from tasks.numerics.histogram import EDGES, FINITE_BINS, ExponentHistogram
from tasks.numerics.output_error import INT8_LARGEST, squared_error
from tasks.quantization.recipe.schemes import RangeRule

BATCHES = 32
"""Batches that the observed values are taken to have come in, for their moving average."""
TOLERANCE = 0.1
"""Of the least squared error: that much more is 0.4 dB, which no output shows."""
HALVINGS = 12
FINE = 32
"""Clips an octave that are tried beside a deployed one."""
FEW = 2048
"""Values. Rules that weigh a distribution keep all of fewer: what they would cut off is chance."""


def amax(histogram: ExponentHistogram, rule: RangeRule, largest: float = INT8_LARGEST) -> float:
    """Return the clipping magnitude, > 0; raises `BadInput` on no data and on infinities or NaN.

    `largest` is the format's largest value. Above 127 it is a floating-point format, whose steps
    shrink with the values: a clip gains nothing there, and MSE and entropy, which weigh it against
    the step, keep all.
    """
    require_data(histogram)
    if not histogram.amax:
        return SMALLEST
    if largest > INT8_LARGEST and rule in (RangeRule.MSE, RangeRule.ENTROPY):
        rule = RangeRule.MAX
    if histogram.total < FEW and rule in (RangeRule.ENTROPY, RangeRule.MOVING_AVERAGE):
        rule = RangeRule.MAX
    match rule:
        case RangeRule.MAX:
            value = histogram.amax
        case RangeRule.PERCENTILE:
            value = histogram.quantile(0.9999)
            value = value if value > SMALLEST else histogram.amax  # nearly everything is zero
        case RangeRule.MSE:
            value = _least(histogram, squared_error)
        case RangeRule.ENTROPY:
            value = _least(histogram, divergence)
        case RangeRule.MOVING_AVERAGE:
            value = expected_largest(histogram)
    return min(max(value, SMALLEST), LARGEST)


def require_data(histogram: ExponentHistogram) -> None:
    """Raise `BadInput` where no scale can follow.

    Nothing was observed, or something was infinite or NaN.
    """
    if histogram.nonfinite:
        raise BadInput(
            f"{histogram.nonfinite} activations are infinite or NaN: no scale follows from them; "
            "look for the requests that cause them in the calibration set"
        )
    if not histogram.total:
        raise BadInput(
            "the calibration set is empty: no range can be observed; sample more traffic first"
        )


def expected_largest(histogram: ExponentHistogram, batches: int = BATCHES) -> float:
    """Return what a moving average of the batches' largest magnitudes converges to; > 0.

    Values are taken to be independent.

    The largest of n values lies below x with probability F(x)^n, so its mean is amax - integral of
    F^n over [0, amax], n = total / batches. F is linear inside a bin, which makes the integral
    exact there. Values of one batch depend on each other, so a real moving average lies lower: this
    is its upper estimate, and needs no order of the batches.
    """
    counts = histogram.counts[:FINITE_BINS]
    last = int(np.flatnonzero(counts)[-1])
    total, n = histogram.total, max(histogram.total / batches, 1.0)
    edges = np.append(EDGES[: last + 1], max(histogram.amax, EDGES[last]))
    upto = np.concatenate([[0], np.cumsum(counts[: last + 1])]) / total
    rise = np.diff(upto)
    # Over a bin where F rises from a to b, the mean of F^n is (b^(n+1) - a^(n+1)) / ((n + 1) (b -
    # a)).
    flat = upto[:-1] ** n
    mean = np.divide(np.diff(upto ** (n + 1)), (n + 1) * rise, out=flat, where=rise > 0)
    return max(histogram.amax - float((mean * np.diff(edges)).sum()), SMALLEST)


def divergence(histogram: ExponentHistogram, clip: float) -> float:
    """Return KL(P || Q) of the clipped distribution against its 128-level version.

    Migacz, "8-bit inference with TensorRT" (2017), on a 2048-bin linear histogram resampled from
    the exponent bins.
    """
    linear = _linear(histogram)
    if linear[1:].any():
        # Zeros are exact at every scale, and half of a ReLU's output; pytorch-quantization leaves
        # them out likewise.
        linear[0] = linear[1]
    width = histogram.amax / len(linear)
    bins = int(np.clip(round(clip / width), INT8_LARGEST + 1, len(linear)))
    reference = linear[:bins].copy()
    reference[-1] += linear[bins:].sum()
    levels = (np.arange(bins) * (INT8_LARGEST + 1)) // bins
    occupied = linear[:bins] > 0
    mass = np.bincount(levels, linear[:bins], INT8_LARGEST + 1)
    spread = np.bincount(levels, occupied, INT8_LARGEST + 1)
    quantized = np.where(occupied, (mass / np.maximum(spread, 1))[levels], 0.0)
    if not quantized.any():
        return float("inf")  # everything lies beyond this clip
    p = reference / reference.sum()
    q = quantized / quantized.sum()
    both = (p > 0) & (q > 0)
    # Mass that fell on an empty level is penalised by a floor instead of an infinity.
    lost = float((p[(p > 0) & (q == 0)] * 30).sum())
    return float((p[both] * np.log(p[both] / q[both])).sum()) + lost


def _least(
    histogram: ExponentHistogram, cost: Callable[[ExponentHistogram, float], float]
) -> float:
    """Return the clip with the least cost among 96 fractions of the largest magnitude.

    Each is 4 % below the next.
    """
    clips = histogram.amax * np.geomspace(0.02, 1.0, 96)
    return float(clips[int(np.argmin([cost(histogram, float(clip)) for clip in clips]))])


def nearest(
    cost: Callable[[float], float], largest: float, deployed: float, tolerance: float = TOLERANCE
) -> float:
    """Return the clip next to the deployed one that costs at most 1 + `tolerance` times the least.

    It is at most `largest`.

    The least lies in a flat valley: where exactly, a few requests decide. The edge of what is as
    good as the least hardly moves with them, and a scale that is good enough stays.
    """
    low, high = np.log2(largest * 0.02), np.log2(largest)
    grid = 2.0 ** (np.arange(np.floor(FINE * low), np.ceil(FINE * high) + 1) / FINE)
    clips = np.unique(np.append(np.minimum(grid, largest), largest))
    costs = np.array([cost(float(clip)) for clip in clips])
    most = float(costs.min()) * (1 + tolerance)
    if cost(deployed) <= most:
        return deployed
    good = np.flatnonzero(costs <= most)
    place = int(good[np.argmin(np.abs(np.log(clips[good] / deployed)))])
    beyond = place + (1 if deployed > clips[place] else -1)
    inside = float(clips[place])
    outside = float(clips[beyond]) if 0 <= beyond < len(clips) else inside
    for _ in range(HALVINGS):
        middle = float(np.sqrt(inside * outside))
        inside, outside = (middle, outside) if cost(middle) <= most else (inside, middle)
    return inside


def _linear(histogram: ExponentHistogram, bins: int = 2048) -> NDArray[np.float64]:
    """Return counts over [0, amax] in equal bins; each exponent bin spreads its count evenly."""
    counts = histogram.counts[:FINITE_BINS].astype(np.float64)
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    last = int(np.flatnonzero(counts)[-1])
    edges = np.append(EDGES[: last + 1], max(histogram.amax, EDGES[last] * (1 + 1e-9)))
    at = np.linspace(0.0, histogram.amax, bins + 1)
    below = np.interp(at, edges, cumulative[: last + 2])
    below[-1] = cumulative[-1]  # also where the largest magnitude is the lower edge of its bin
    return np.diff(below)
