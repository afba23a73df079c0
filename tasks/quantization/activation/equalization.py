"""Ranges evened out between a layer and the one after it.

Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019), section 4.1: with
s_i = sqrt(r1_i / r2_i) (its equation 11), output channel i of the first layer divided by s_i, and input channel i of
the second multiplied by it, both weights have the range sqrt(r1_i r2_i) there.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.quantization.weight.quantize import by_group

LIMIT = 1e5
"""No factor is larger, or smaller than its inverse: a nearly dead channel must not drown the others."""


def factors(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divisors of the activation between two layers, [channels], from the ranges of each channel, [channels] >= 0.

    1 where either side is dead. Only for what folds into the layer before: nothing but positively homogeneous steps
    (ReLU, pooling) may lie between.
    """
    alive = (before > 0) & (after > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.sqrt(before.astype(np.float64)) / np.sqrt(after.astype(np.float64))
    return np.where(alive, np.clip(s, 1 / LIMIT, LIMIT), 1.0).astype(np.float32)


def output_ranges(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest magnitude of each output channel: weight [outputs, inputs...] -> [outputs]."""
    largest: NDArray[np.float32] = np.abs(weight.reshape(len(weight), -1)).max(axis=1, initial=0.0)
    return largest


def input_ranges(weights: Sequence[NDArray[np.float32]], channels: int) -> NDArray[np.float32]:
    """Largest magnitude that any of the layers has for each input channel: [outputs, inputs, ...] each -> [channels].

    A convolution in groups has fewer inputs than the activation has channels.
    """
    grouped = [np.moveaxis(by_group(weight, channels), 2, 1) for weight in weights]
    largest = [np.abs(weight.reshape(channels, -1)).max(axis=1) for weight in grouped]
    found: NDArray[np.float32] = np.stack(largest).max(axis=0)
    return found
