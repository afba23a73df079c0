"""The mean of what quantization adds to a layer's output, to be taken off its bias.

Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019), section 4.2, in its
empirical form: rounding errors do not average out over the inputs, and later layers take their mean for signal.
"""

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.observation.scales import Quantizer
from tasks.quantization.activation.smoothquant import fake_quantize_activation


def correction(
    rows: NDArray[np.float32],
    weight: NDArray[np.float32],
    quantized: NDArray[np.float32],
    quantizer: Quantizer | None,
) -> NDArray[np.float32]:
    """Mean over rows [n, inputs] of exact minus quantized output -> [outputs], to be added to the layer's output.

    `weight` and `quantized` (levels times scales) are [outputs, inputs]. All three are on the same side of the
    smoothing: rows already divided, weights already multiplied; the quantizer's own smoothing_scales are not applied. None:
    the activation is not quantized. Raises `BadInput` without rows.
    """
    if not len(rows):
        raise BadInput(
            "bias correction needs observed rows, and the site has none: observe the calibration set again"
        )
    seen = rows if quantizer is None else fake_quantize_activation(rows, quantizer)
    # The layer is linear: the mean of its outputs is its output for the mean, in float64 because the two nearly cancel.
    exact = weight.astype(np.float64) @ rows.mean(axis=0, dtype=np.float64)
    found: NDArray[np.float64] = exact - quantized.astype(np.float64) @ seen.mean(
        axis=0, dtype=np.float64
    )
    return found.astype(np.float32)
