"""How a site's weights find their quantized values, and what is subtracted afterwards.

Every rounding has one handler: see `_HANDLERS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.quantized_weight import QuantizedWeight, WeightScheme, quantize, summed
from tasks.numerics.quantizer import Quantizer
from tasks.quantization.recipe.schemes import Awq, Gptq, Nearest, Rounding, Trained
from tasks.quantization.weight.awq_clip import clip
from tasks.quantization.weight.bias_correction import correction, mean_fraction
from tasks.quantization.weight.gptq import compensate, damped_hessian

LARGE_MEAN = 0.25
"""Fraction of a layer's squared error from which on its mean alone is worth taking off."""

LARGEST_BIAS = 2.0**28
"""Of what INT32 holds, an eighth: a target's own quantizer of the activation may be finer."""

Weights = tuple[QuantizedWeight, ...]
_Floats = NDArray[np.float32]


def round_weights(
    weights: Sequence[_Floats], rows: _Floats, scheme: WeightScheme, rounding: Rounding
) -> Weights:
    """Round every layer of a site.

    Without rows (convolutions) there is nothing to learn from, and every rounding is to the nearest
    quantized value.

    Args:
        weights: One a layer, [outputs, inputs...].
        rows: What they read, [n, inputs], on the same side of the smoothing.
        scheme: How they are stored.
        rounding: The technique.
    """
    return _HANDLERS[type(rounding) if rows.size else Nearest](weights, rows, scheme)


def _to_nearest(weights: Sequence[_Floats], rows: _Floats, scheme: WeightScheme) -> Weights:
    return tuple(quantize(weight, scheme) for weight in weights)


def _clipped(weights: Sequence[_Floats], rows: _Floats, scheme: WeightScheme) -> Weights:
    plain = replace(scheme, clipped=False)
    return tuple(quantize(clip(weight, rows, plain), plain) for weight in weights)


def _compensated(weights: Sequence[_Floats], rows: _Floats, scheme: WeightScheme) -> Weights:
    hessian = damped_hessian(rows)
    return tuple(compensate(weight, hessian, scheme) for weight in weights)


_HANDLERS: Mapping[type, Callable[[Sequence[_Floats], _Floats, WeightScheme], Weights]] = {
    Nearest: _to_nearest,
    Awq: _clipped,
    Gptq: _compensated,
    Trained: _compensated,  # training starts from there: `train_site`
}


def train_site(
    weights: Sequence[_Floats], rows: _Floats, start: Weights, quantizer: Quantizer | None
) -> tuple[Weights, Quantizer | None]:
    """Train every layer of a site from its rounded weight.

    A start comes back where held-out rows gain nothing. Layers that share the quantizer are trained
    against it as it is: the clip that suits one need not suit the others.
    """
    from tasks.quantization.weight.qat import train  # torch takes a second to load

    alone = len(weights) == 1
    trained = [
        train(rows, weight, rounded, quantizer, learn_clip=alone)
        for weight, rounded in zip(weights, start, strict=True)
    ]
    return tuple(item.weight for item in trained), trained[0].quantizer if alone else quantizer


def corrections(
    weights: Sequence[_Floats], kept: _Floats, rounded: Weights, quantizer: Quantizer | None
) -> tuple[_Floats, ...] | None:
    """Return what to add to each layer's output, [outputs].

    The mean of a convolution's input is the same at every place of its kernel, but for the padding
    at the borders. None where neither rows nor pixels [n, channels] were kept.
    """
    if not kept.size:
        return None
    channels = kept.shape[1]
    return tuple(
        correction(
            kept, summed(weight, channels), summed(stored.dequantized(), channels), quantizer
        )
        for weight, stored in zip(weights, rounded, strict=True)
    )


def corrections_of_means(
    weights: Sequence[_Floats], rows: _Floats, rounded: Weights, quantizer: Quantizer | None
) -> tuple[_Floats, ...] | None:
    """Return what to add to each output of a matrix product whose error has a large mean.

    None where it is not, or without rows. A product of few inputs repeats the same rounding errors
    for every case: on a perceptron of 64 inputs they are two thirds of what rounding costs.
    """
    if not rows.size or any(
        mean_fraction(rows, weight, stored.dequantized(), quantizer) < LARGE_MEAN
        for weight, stored in zip(weights, rounded, strict=True)
    ):
        return None
    return corrections(weights, rows, rounded, quantizer)


def with_room_for(
    bias: _Floats | None, rounded: QuantizedWeight, quantizer: Quantizer | None
) -> QuantizedWeight:
    """Return the weight with scales so large that the bias fits an INT32 of scale x · w.

    ONNX Runtime stores a bias so, and lets it wrap: that of a channel with next to no weights. Its
    quantized values become zeros here.

    Args:
        bias: One a channel, [outputs]; None: there is none.
        rounded: The layer's weight.
        quantizer: Of its activation; None: nothing is stored in integers.
    """
    one_a_channel = rounded.block is None and rounded.scales.shape == (len(rounded.values), 1)
    if bias is None or quantizer is None or not one_a_channel or not rounded.format.is_integer:
        return rounded
    least = np.abs(bias.reshape(-1, 1)) / (quantizer.scale * LARGEST_BIAS)
    scales = np.maximum(rounded.scales, least).astype(np.float32)
    if np.array_equal(scales, rounded.scales):
        return rounded
    raised = scales > rounded.scales
    flat = rounded.dequantized().reshape(rounded.values.shape)
    values = np.where(raised, np.rint(flat / scales), rounded.values).astype(rounded.values.dtype)
    return replace(rounded, values=values, scales=scales)
