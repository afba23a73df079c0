"""SmoothQuant with its strength searched per site on the traffic at hand.

Xiao et al., "SmoothQuant" (2023), equation 4: s_j = max|X_j|^alpha / max|W_j|^(1 - alpha). The activation is divided
by s, the weight multiplied by it: the product is unchanged, but outlier channels no longer set everyone's step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.formats import LARGEST, SMALLEST, round_to_levels
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.output_error import LEVELS, relative_error, widened
from tasks.observation.observer import SiteObservation
from tasks.observation.scales import Quantizer
from tasks.quantization.activation.ranges import RangeRule, amax

ALPHAS = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Tried beside no smoothing at all."""


@dataclass(frozen=True, slots=True)
class Smoothed:
    """The best setting found for one site."""

    quantizer: Quantizer
    alpha: float | None  # None: no smoothing
    error: float  # squared output error / squared output, on the observed rows


def search(
    observed: SiteObservation,
    weights: Sequence[NDArray[np.float32]],
    rule: RangeRule,
    alphas: Sequence[float] = ALPHAS,
) -> Smoothed:
    """Choose alpha by the output error of the site's own layers; weights are [outputs, inputs]."""
    stacked = np.concatenate(weights)
    plain = Quantizer(amax(observed.histogram, rule))
    exact = widened(observed.rows, stacked) @ stacked.T
    best = Smoothed(plain, None, output_error(observed.rows, stacked, plain, exact))
    for alpha in alphas:
        smoothing_scales = factors(observed.channel_amax, np.abs(stacked).max(axis=0), alpha)
        quantizer = Quantizer(smoothed_amax(observed, smoothing_scales, rule), smoothing_scales)
        error = output_error(observed.rows, stacked, quantizer, exact)
        if error < best.error:
            best = Smoothed(quantizer, alpha, error)
    return best


def factors(
    activation: NDArray[np.float32], weight: NDArray[np.float32], alpha: float
) -> NDArray[np.float32]:
    """Divisors of the activation, [channels], from the largest magnitudes per channel; 1 where a channel is dead."""
    dead = (activation <= 0) | (weight <= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = activation.astype(np.float64) ** alpha / weight.astype(np.float64) ** (1 - alpha)
    s = np.where(dead, 1.0, np.clip(s, 1e-5, 1e5))
    return s.astype(np.float32)


def smoothed_amax(
    observed: SiteObservation, smoothing_scales: NDArray[np.float32], rule: RangeRule
) -> float:
    """The range after smoothing: exact for max; other rules read the kept rows or pixels."""
    if rule is RangeRule.MAX:
        return min(
            max(
                float((observed.channel_amax / smoothing_scales.astype(np.float64)).max()), SMALLEST
            ),
            LARGEST,
        )
    rows = np.clip(observed.kept / smoothing_scales.astype(np.float64), -LARGEST, LARGEST)
    return amax(ExponentHistogram.of(rows.astype(np.float32)), rule)


def output_error(
    rows: NDArray[np.float32],
    weight: NDArray[np.float32],
    quantizer: Quantizer,
    exact: NDArray[np.floating] | None = None,
) -> float:
    """|| X W' - Q(X) Q(W)' ||^2 / || X W' ||^2 for rows [n, inputs] and weight [outputs, inputs].

    `exact` is X W' where the caller has it, [n, outputs].
    """
    exact = widened(rows, weight) @ weight.T if exact is None else exact
    x, w = (
        (rows, weight)
        if quantizer.smoothing_scales is None
        else (rows / quantizer.smoothing_scales, weight * quantizer.smoothing_scales)
    )
    seen = widened(fake_quantize(x, np.float32(quantizer.scale)), w)
    return relative_error(exact, seen @ fake_quantize(w, weight_scales(w)[:, None]).T)


def weight_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Per-channel scales of a weight [outputs, inputs...] -> [outputs]: largest magnitude / 127, never zero."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    # Below this the quotient is no normal float32, and such a channel computes nothing.
    return np.where(largest > 1e-35, largest / LEVELS, 1.0).astype(np.float32)


def fake_quantize_activation(
    values: NDArray[np.float32], quantizer: Quantizer
) -> NDArray[np.float32]:
    """What the graph makes of an activation that was already divided: round to the quantizer's levels and back."""
    units = (values / np.float32(quantizer.scale) + np.float32(quantizer.zero_point)).astype(
        np.float32
    )
    levels = round_to_levels(units, quantizer.format).astype(np.float32)
    return (levels - np.float32(quantizer.zero_point)) * np.float32(quantizer.scale)


def fake_quantize(
    values: NDArray[np.float32], scale: np.float32 | NDArray[np.float32]
) -> NDArray[np.float32]:
    """Round to INT8 levels and back, as QuantizeLinear (ties to even, saturating) and DequantizeLinear do."""
    levels: NDArray[np.float32] = np.clip(np.rint(values / scale), -128, 127).astype(np.float32)
    return levels * scale
