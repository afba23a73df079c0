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
from tasks.numerics.output_error import exact_output, output_error
from tasks.numerics.quantized_weight import WeightScheme
from tasks.numerics.quantizer import Quantizer
from tasks.observation.observer import SiteObservation
from tasks.quantization.activation.ranges import amax
from tasks.quantization.recipe.schemes import RangeRule

ALPHAS = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Tried beside no smoothing at all."""
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
    rows, stacked = observed.rows, np.concatenate(weights)
    exact = exact_output(rows, stacked)
    plain = Quantizer(min(headroom * amax(observed.histogram, rule), LARGEST))
    best = Smoothed(plain, None, output_error(rows, stacked, plain, scheme, exact=exact))
    largest = np.abs(stacked).max(axis=0)
    for alpha in alphas:
        scales = smoothing_scales(observed.channel_amax, largest, alpha)
        largest_smoothed = min(headroom * smoothed_amax(observed, scales, rule), LARGEST)
        quantizer = Quantizer(largest_smoothed, scales)
        error = output_error(rows, stacked, quantizer, scheme, smoothing_scales=scales, exact=exact)
        if error < best.error:
            best = Smoothed(quantizer, alpha, error)
    return best


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
