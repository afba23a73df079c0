"""What quantization costs: from a histogram alone, or from an output beside the exact one."""

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.formats import NumberFormat, PerTensor, ScaleFormat, widened
from tasks.numerics.histogram import CENTRES, EDGES, FINITE_BINS, ExponentHistogram
from tasks.numerics.quantized_weight import OUTPUTS_AT_ONCE, WeightScheme, quantize
from tasks.numerics.quantizer import Quantizer, fake_quantize

INT8_LARGEST = int(NumberFormat.INT8.largest)
AT_ONCE = 1 << 20
"""Numbers that are in memory in float64."""
_UPPER = np.append(EDGES[1:], 2.0**128)


def squared_error(histogram: ExponentHistogram, clip: float, step: float | None = None) -> float:
    """Return the expected squared error of INT8 with this clip; 0 without data.

    It is step^2 / 12 by rounding inside, and (|x| - clip)^2 outside: Banner, Nahshan and Soudry,
    "Post training 4-bit quantization" (2019), section 3. Each bin is taken as uniform: at the bins'
    centres alone, a clip inside the topmost bin would look free. The step is clip / 127 where none
    is given.
    """
    if not histogram.total:
        return 0.0
    step = clip / INT8_LARGEST if step is None else step
    return float(squared_errors(histogram, np.array([clip]), np.array([step]))[0])


def squared_errors(
    histogram: ExponentHistogram, clips: NDArray[np.float64], steps: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return `squared_error` of many clips, each with its step, of data: [n], [n] -> [n]."""
    counts = histogram.counts[:FINITE_BINS]
    used = np.flatnonzero(counts)
    errors = bin_errors(used, clips[:, None], histogram.amax, steps[:, None])
    total: NDArray[np.float64] = (counts[used] * errors).sum(axis=1) / histogram.total
    return total


def bin_errors(
    bins: NDArray[np.integer],
    clip: float | NDArray[np.float64],
    amax: float,
    step: float | NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the expected squared error of one value in each of some bins, [used].

    The topmost of the bins ends at `amax`. Of clips and steps [n, 1] it is [n, used].
    """
    low, high = EDGES[bins], np.minimum(_UPPER[bins], amax)
    below, above = np.maximum(low - clip, 0.0), np.maximum(high - clip, 0.0)
    # The mean of (x - clip)^2 over the bin, of which a fraction lies outside.
    fraction = np.divide(
        above - below, high - low, out=(high > clip).astype(np.float64), where=high > low
    )
    outside = fraction * (below**2 + below * above + above**2) / 3
    # Rounding cannot cost more than the value itself: that matters for the many near zero.
    step = clip / INT8_LARGEST if step is None else step
    inside = (1 - fraction) * np.minimum(step**2 / 12, CENTRES[bins] ** 2)
    errors: NDArray[np.float64] = outside + inside
    return errors


def relative_error(exact: NDArray[np.floating], quantized: NDArray[np.floating]) -> float:
    """Return || exact - quantized ||^2 / || exact ||^2 in float64, at most 1e30.

    Squares of 1e30 are no float32.
    """
    return _ratio(*_squares(exact, quantized))


def _squares(exact: NDArray[np.floating], quantized: NDArray[np.floating]) -> tuple[float, float]:
    """Return || exact - quantized ||^2 and || exact ||^2, some rows at a time in float64."""
    lost, energy, count = 0.0, 0.0, max(1, AT_ONCE // max(1, exact[:1].size))
    for start in range(0, len(exact), count):
        part = exact[start : start + count].astype(np.float64)
        energy += float(np.square(part).sum())
        part -= quantized[start : start + count]
        lost += float(np.square(part, out=part).sum())
    return lost, energy


def _ratio(lost: float, energy: float) -> float:
    return float(min(lost / max(energy, np.finfo(np.float64).tiny), 1e30))


def exact_output(rows: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.floating]:
    """Return X W' of rows [n, inputs] and a weight [outputs, inputs] -> [n, outputs]."""
    return widened(rows, weight) @ weight.T


def output_error(
    rows: NDArray[np.float32],
    weight: NDArray[np.float32],
    quantizer: Quantizer | None,
    scheme: WeightScheme,
    *,
    smoothing_scales: NDArray[np.float32] | None = None,
    exact: NDArray[np.floating] | None = None,
) -> float:
    """Return || X W' - Q(X / s) Q(W s)' ||^2 / || X W' ||^2.

    Args:
        rows: X, [n, inputs], as they were observed.
        weight: W, [outputs, inputs].
        quantizer: Q of the activation; None leaves it in floating point.
        scheme: Q of the weight.
        smoothing_scales: s, [inputs]; None is 1.
        exact: X W', [n, outputs], where the caller has it; else it is made a part at a time.
    """
    read = rows if smoothing_scales is None else rows / smoothing_scales
    if quantizer is not None:
        read = fake_quantize(read, quantizer)
    # One scale of the whole weight cannot be found from a part of it; NVFP4 has one of its scales.
    whole = isinstance(scheme.granularity, PerTensor) or scheme.scales is ScaleFormat.E4M3
    size = len(weight) if whole else OUTPUTS_AT_ONCE
    lost, energy = 0.0, 0.0
    for start in range(0, len(weight), size):
        part = weight[start : start + size]
        wanted = exact_output(rows, part) if exact is None else exact[:, start : start + size]
        if smoothing_scales is not None:
            part = part * smoothing_scales
        output = widened(read, part) @ quantize(part, scheme).dequantized().T
        of_part = _squares(wanted, output)
        lost, energy = lost + of_part[0], energy + of_part[1]
    return _ratio(lost, energy)
