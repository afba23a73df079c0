"""How a site's weights find their levels, and what is subtracted afterwards."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.observation.scales import Quantizer
from tasks.quantization.recipe.catalog import Rounding
from tasks.quantization.weight.awq import clip
from tasks.quantization.weight.bias_correction import correction
from tasks.quantization.weight.gptq import compensate, damped_hessian
from tasks.quantization.weight.quantize import QuantizedWeight, WeightScheme, quantize, summed

Weights = tuple[QuantizedWeight, ...]
HELD_OUT = 4
"""Of the rows that a site is trained on, one in so many is held out and decides which step's state is kept."""
LEAST_ROWS = 2 * HELD_OUT
"""Rows below which a site is not trained."""


def round_weights(
    weights: Sequence[NDArray[np.float32]],
    rows: NDArray[np.float32],
    scheme: WeightScheme,
    rounding: Rounding,
) -> Weights:
    """Levels of every layer of a site; weights [outputs, inputs...] and rows [n, inputs] on one side of the factors.

    Without rows (convolutions) there is nothing to learn from, and every rounding is to the nearest level.
    """
    if not rows.size or rounding is Rounding.NEAREST:
        return tuple(quantize(weight, scheme) for weight in weights)
    if rounding is Rounding.AWQ:
        plain = replace(scheme, clipped=False)
        return tuple(quantize(clip(weight, rows, plain), plain) for weight in weights)
    seen = damped_hessian(rows, scheme)
    return tuple(compensate(weight, seen, scheme) for weight in weights)


def train_site(
    weights: Sequence[NDArray[np.float32]],
    rows: NDArray[np.float32],
    start: Weights,
    quantizer: Quantizer | None,
) -> tuple[Weights, Quantizer | None]:
    """Train every layer of a site from its rounded weight; a start comes back where held-out rows gain nothing.

    Layers that share the quantizer are trained against it as it is: the clip that suits one need not suit the others.
    """
    from tasks.quantization.weight.qat import train  # torch takes a second to load

    alone = len(weights) == 1
    trained = [
        train(rows, weight, rounded, quantizer, learn_clip=alone)
        for weight, rounded in zip(weights, start, strict=True)
    ]
    return tuple(item.weight for item in trained), trained[0].quantizer if alone else quantizer


def corrections(
    weights: Sequence[NDArray[np.float32]],
    kept: NDArray[np.float32],
    rounded: Weights,
    quantizer: Quantizer | None,
) -> tuple[NDArray[np.float32], ...] | None:
    """What to add to each layer's output, [outputs]; None where neither rows nor pixels [n, channels] were kept.

    The mean of a convolution's input is the same at every place of its kernel, but for the padding at the borders.
    """
    if not kept.size:
        return None
    return tuple(
        correction(
            kept,
            summed(weight, kept.shape[1]),
            summed(levels.dequantized(), kept.shape[1]),
            quantizer,
        )
        for weight, levels in zip(weights, rounded, strict=True)
    )
