"""The mean of what quantization adds to a layer's output, to be taken off its bias.

Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019),
section 4.2, in its empirical form: rounding errors do not average out over the inputs, and later
layers take their mean for signal.
"""

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.numerics.quantizer import Quantizer, fake_quantize


def correction(
    rows: NDArray[np.float32],
    weight: NDArray[np.float32],
    quantized: NDArray[np.float32],
    quantizer: Quantizer | None,
) -> NDArray[np.float32]:
    """Return the mean over rows of exact minus quantized output, [outputs], to be added.

    Rows and both weights are on the same side of the smoothing: rows already divided, weights
    already multiplied. The quantizer's own smoothing scales are not applied.

    Args:
        rows: What the layer reads, [n, inputs].
        weight: [outputs, inputs].
        quantized: Quantized values times scales, [outputs, inputs].
        quantizer: Of the activation; None: it is not quantized.

    Raises:
        BadInput: There are no rows.
    """
    if not len(rows):
        raise BadInput(
            "bias correction needs observed rows, and the site has none: "
            "observe the calibration set again"
        )
    read = rows if quantizer is None else fake_quantize(rows, quantizer)
    # The layer is linear: the mean of its outputs is its output for the mean. It is taken in
    # float64, because the two nearly cancel.
    exact = weight.astype(np.float64) @ rows.mean(axis=0, dtype=np.float64)
    lost: NDArray[np.float64] = exact - quantized.astype(np.float64) @ read.mean(
        axis=0, dtype=np.float64
    )
    return lost.astype(np.float32)


def mean_fraction(
    rows: NDArray[np.float32],
    weight: NDArray[np.float32],
    quantized: NDArray[np.float32],
    quantizer: Quantizer | None,
) -> float:
    """Return how much of a layer's squared output error is that of its mean over rows, 0..1.

    Arguments are those of `correction`. Many inputs that vary leave little; few inputs, or nearly
    constant ones, leave most.
    """
    read = rows if quantizer is None else fake_quantize(rows, quantizer)
    error = rows.astype(np.float64) @ weight.T - read.astype(np.float64) @ quantized.T
    total = float((error**2).mean(axis=0).sum())
    return float((error.mean(axis=0) ** 2).sum()) / total if total else 0.0
