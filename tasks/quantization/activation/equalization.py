"""Ranges evened out between a layer and the one after it.

Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019),
section 4.1, with s_i = sqrt(r1_i / r2_i) (its equation 11). Output channel i of the first layer is
divided by s_i, input channel i of the second multiplied by it. Both weights then have the range
sqrt(r1_i r2_i) there.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.quantized_weight import by_group

LIMIT = 1e5
"""No scale is larger, or smaller than its inverse: a nearly dead channel must not drown others."""


def smoothing_scales(
    before: NDArray[np.float32], after: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return what divides the activation between two layers, [channels]; 1 where a side is dead.

    Both sides are the ranges of each channel, [channels] >= 0. It serves only what folds into the
    layer before: nothing but positively homogeneous steps (ReLU, pooling) may lie between.
    """
    alive = (before > 0) & (after > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.sqrt(before.astype(np.float64)) / np.sqrt(after.astype(np.float64))
    return np.where(alive, np.clip(s, 1 / LIMIT, LIMIT), 1.0).astype(np.float32)


def input_ranges(weights: Sequence[NDArray[np.float32]], channels: int) -> NDArray[np.float32]:
    """Return the largest magnitude that any of the layers has for each input channel, [channels].

    Weights are [outputs, inputs, ...] each. A convolution in groups has fewer inputs than the
    activation has channels.
    """
    by_channel = [np.moveaxis(by_group(weight, channels), 2, 1) for weight in weights]
    largest = [np.abs(weight.reshape(channels, -1)).max(axis=1) for weight in by_channel]
    ranges: NDArray[np.float32] = np.stack(largest).max(axis=0)
    return ranges
