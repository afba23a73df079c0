"""SmoothQuant with its strength searched per site on the traffic at hand.

Xiao et al., "SmoothQuant" (2023), equation 4: s_j = max|X_j|^alpha / max|W_j|^(1 - alpha). The
activation is divided by s, the weight multiplied by it. The product is unchanged, but outlier
channels no longer set everyone's step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.formats import LARGEST, SMALLEST
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.output_error import INT8_LARGEST, exact_output, output_error
from tasks.numerics.quantized_weight import WeightScheme, multiplied, quantize
from tasks.numerics.quantizer import Quantizer
from tasks.observation.observer import SiteObservation
from tasks.quantization.activation.ranges import amax
from tasks.quantization.recipe.schemes import RangeRule

ALPHAS = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Tried beside no smoothing at all."""
BY_TOKEN = (0.3, 0.4, 0.5, *ALPHAS)
"""Tried where each token has a range: less has to be moved into the weights."""
ABOUT_BY_TOKEN = 1.3
"""Times the least error by token, what counts as much."""
_INT8 = WeightScheme()


@dataclass(frozen=True, slots=True)
class Smoothed:
    """The best setting of one site."""

    quantizer: Quantizer
    alpha: float | None  # None: no smoothing
    error: float  # squared output error / squared output, on the observed rows


def search(
    observed: SiteObservation,
    weights: Sequence[NDArray[np.float32]],
    rule: RangeRule,
    alphas: Sequence[float] = ALPHAS,
    scheme: WeightScheme = _INT8,
    headroom: float = 1.0,
) -> Smoothed:
    """Choose alpha by the output error of the site's own layers.

    Args:
        observed: What the site saw.
        weights: Of the site's layers, [outputs, inputs] each.
        rule: How the range follows from what was seen.
        alphas: Strengths to try.
        scheme: How the weights are stored.
        headroom: Times what the rule asks for, >= 1.
    """
    rows, stacked = observed.rows, _stacked(weights)
    exact = exact_output(rows, stacked)
    plain = Quantizer(min(headroom * amax(observed.histogram, rule), LARGEST))
    best = Smoothed(plain, None, output_error(rows, stacked, plain, scheme, exact=exact))
    largest = np.maximum(stacked.max(axis=0), -stacked.min(axis=0))
    for alpha in alphas:
        scales = smoothing_scales(observed.channel_amax, largest, alpha)
        largest_smoothed = min(headroom * smoothed_amax(observed, scales, rule), LARGEST)
        quantizer = Quantizer(largest_smoothed, scales)
        error = output_error(rows, stacked, quantizer, scheme, smoothing_scales=scales, exact=exact)
        if error < best.error:
            best = Smoothed(quantizer, alpha, error)
    return best


def search_by_token(
    observed: SiteObservation, weights: Sequence[NDArray[np.float32]], scheme: WeightScheme
) -> NDArray[np.float32] | None:
    """Return the best smoothing scales, [channels], where each token has a range of its own.

    None where none is better. Errors are relative to each token's own output, since the few with
    massive activations would choose for all others. For the same reason a channel counts by its
    root mean square in the place of max|X_j|: nothing is cut off by a range of each token's own.
    Of what costs about as much as the best, the scales are taken that divide channels least apart,
    as another text speaks through others.
    """
    rows, stacked = observed.rows, _stacked(weights)
    largest = np.maximum(stacked.max(axis=0), -stacked.min(axis=0))
    heard = np.sqrt(np.square(rows, dtype=np.float64).mean(axis=0)).astype(np.float32)
    tried: list[NDArray[np.float32] | None] = [None]
    tried += [smoothing_scales(heard, largest, alpha) for alpha in BY_TOKEN]
    lost = [token_error(rows, stacked, scales, scheme) for scales in tried]
    about = ABOUT_BY_TOKEN * min(lost)
    return min(
        (scales for scales, error in zip(tried, lost, strict=True) if error <= about),
        key=lambda scales: 0.0 if scales is None else float(np.log2(scales).std()),
    )


def _stacked(weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the weights as one, [outputs, inputs], without a copy where there is one."""
    return weights[0] if len(weights) == 1 else np.concatenate(weights)


def token_error(
    rows: NDArray[np.float32],
    weight: NDArray[np.float32],
    scales: NDArray[np.float32] | None,
    scheme: WeightScheme,
) -> float:
    """Return the mean over tokens of squared output error / squared output.

    Args:
        rows: Tokens, [n, channels].
        weight: [outputs, channels].
        scales: What divides the tokens, [channels].
        scheme: How the weight is stored.
    """
    by = np.ones(rows.shape[1], np.float32) if scales is None else scales
    exact = rows.astype(np.float64) @ weight.astype(np.float64).T
    smoothed = rows.astype(np.float64) / by
    ranges = np.maximum(np.abs(smoothed).max(axis=1, keepdims=True), SMALLEST)
    seen = np.rint(smoothed / ranges * INT8_LARGEST) / INT8_LARGEST * ranges
    lost = seen @ quantize(multiplied(weight, by), scheme).dequantized().T - exact
    energy = np.maximum(np.square(exact).sum(axis=1), SMALLEST)
    return float((np.square(lost).sum(axis=1) / energy).mean())


def smoothing_scales(
    activation: NDArray[np.float32], weight: NDArray[np.float32], alpha: float
) -> NDArray[np.float32]:
    """Return what divides the activation, [channels]; 1 where a channel is dead.

    Activation and weight are the largest magnitudes per channel, [channels].
    """
    dead = (activation <= 0) | (weight <= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = activation.astype(np.float64) ** alpha / weight.astype(np.float64) ** (1 - alpha)
    s = np.where(dead, 1.0, np.clip(s, 1e-5, 1e5))
    return s.astype(np.float32)


def smoothed_amax(observed: SiteObservation, scales: NDArray[np.float32], rule: RangeRule) -> float:
    """Return the range after smoothing: exact for max; other rules read the kept rows or pixels."""
    if rule is RangeRule.MAX:
        largest = float((observed.channel_amax / scales.astype(np.float64)).max())
        return min(max(largest, SMALLEST), LARGEST)
    rows = np.clip(observed.kept / scales.astype(np.float64), -LARGEST, LARGEST)
    return amax(ExponentHistogram.of(rows.astype(np.float32)), rule)
