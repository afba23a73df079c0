"""What each site's activation becomes: a fixed quantizer, a range at run time, or nothing; and its factors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.graphs.sites import Site
from tasks.numerics.formats import SMALLEST, NumberFormat
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.output_error import relative_error, squared_error, widened
from tasks.observation.observer import NOTHING_KEPT, SiteObservation
from tasks.observation.request_histograms import RequestHistograms
from tasks.observation.scales import Quantizer, Scales
from tasks.quantization.activation import equalization
from tasks.quantization.activation import smoothquant as smoothing
from tasks.quantization.activation.ranges import RangeRule, amax, nearest
from tasks.quantization.recipe.catalog import ActivationScheme, Recipe, Rounding, Smoothing
from tasks.quantization.weight import awq
from tasks.quantization.weight.quantize import WeightScheme, quantize


@dataclass(frozen=True, slots=True, eq=False)
class SiteQuantizer:
    """One site's activation."""

    activation: Quantizer | None  # None: dynamic, or left in floating point
    smoothing_scales: NDArray[np.float32] | None = (
        None  # [channels]; equal to the activation's own, where it has some
    )


def choose(
    site: Site,
    observed: SiteObservation,
    weights: Sequence[NDArray[np.float32]],
    recipe: Recipe,
    deployed: Scales,
    seen: RequestHistograms | None = None,
) -> SiteQuantizer:
    """The recipe's choice for one site; weights are [outputs, inputs...] per layer.

    `seen` is what the deployed quantizer would have seen of each calibration request; without it, all count alike, and
    where there are factors the kept rows stand for them.
    """
    scheme = recipe.activations
    if scheme is None or scheme.dynamic:
        scaled = recipe.rounding is Rounding.AWQ and site.can_smooth and observed.rows.size
        return SiteQuantizer(
            None,
            awq.search(observed.rows, weights, recipe.weights).smoothing_scales if scaled else None,
        )
    if recipe.smoothing is Smoothing.EQUALIZED and sample(site, observed).size:
        largest = observed.channel_amax
        smoothing_scales = equalization.factors(
            largest, equalization.input_ranges(weights, largest.size)
        )
        return SiteQuantizer(quantizer(observed, scheme, smoothing_scales), smoothing_scales)
    if recipe.smoothing is Smoothing.SEARCHED and site.can_smooth and observed.rows.size:
        found = smoothing.search(observed, weights, scheme.rule).quantizer
        return SiteQuantizer(found, found.smoothing_scales)
    if recipe.smoothing is Smoothing.DEPLOYED and site.name in deployed:
        before = deployed[site.name]
        scheme = replace(scheme, format=before.format, symmetric=before.bounds is None)
        near = _beside(before, observed, seen) if scheme.rule is RangeRule.MSE else None
        return SiteQuantizer(
            quantizer(observed, scheme, before.smoothing_scales, near), before.smoothing_scales
        )
    return SiteQuantizer(quantizer(observed, scheme))


def _beside(
    before: Quantizer, observed: SiteObservation, seen: RequestHistograms | None
) -> float | None:
    """The clip next to the deployed one that is as good as any; None where the rule keeps all, as of FP8."""
    if before.format is not NumberFormat.INT8 or not observed.histogram.amax:
        return None
    if seen is not None:
        return nearest(seen.cost, seen.amax, before.amax)
    whole = histogram(observed, before.smoothing_scales)
    return nearest(lambda clip: squared_error(whole, clip), whole.amax, before.amax)


def sample(site: Site, observed: SiteObservation) -> NDArray[np.float32]:
    """What was kept of the site's channels, [n, channels]: rows, or pixels; none where its layers read other axes."""
    if site.channel_axis == -1:
        return observed.rows
    return observed.pixels if all(layer.op == "Conv" for layer in site.layers) else NOTHING_KEPT


def histogram(
    observed: SiteObservation, smoothing_scales: NDArray[np.float32] | None
) -> ExponentHistogram:
    """The quantizer's own input: exact without factors, from the kept rows or pixels with them."""
    if smoothing_scales is None or not observed.histogram.total:
        return observed.histogram
    seen = ExponentHistogram.of(observed.kept / smoothing_scales)
    return ExponentHistogram(seen.counts, float((observed.channel_amax / smoothing_scales).max()))


def quantizer(
    observed: SiteObservation,
    scheme: ActivationScheme,
    smoothing_scales: NDArray[np.float32] | None = None,
    largest: float | None = None,
) -> Quantizer:
    """The range by the scheme's rule, unless it is known, of the activation after its division."""
    if largest is None:
        largest = (
            amax(observed.histogram, scheme.rule)
            if smoothing_scales is None
            else smoothing.smoothed_amax(observed, smoothing_scales, scheme.rule)
        )
    if scheme.symmetric:
        return Quantizer(largest, smoothing_scales, scheme.format)
    by = np.float32(1) if smoothing_scales is None else smoothing_scales
    low = max(float((observed.channel_low / by).min(initial=0.0)), -largest)
    high = min(float((observed.channel_high / by).max(initial=0.0)), largest)
    # All zeros, or next to it: any range will do whose step is a normal number.
    return Quantizer(largest, smoothing_scales, scheme.format, (low, max(high, low + SMALLEST)))


def output_error(
    observed: SiteObservation,
    weights: Sequence[NDArray[np.float32]],
    choice: SiteQuantizer,
    scheme: WeightScheme,
) -> float:
    """|| X W' - Q(X / s) Q(W s)' ||^2 / || X W' ||^2 over the observed rows; weights are [outputs, inputs]."""
    rows, stacked = observed.rows, np.concatenate(list(weights))
    exact = widened(rows, stacked) @ stacked.T
    if choice.smoothing_scales is not None:
        rows, stacked = rows / choice.smoothing_scales, stacked * choice.smoothing_scales
    if choice.activation is not None:
        rows = smoothing.fake_quantize_activation(rows, choice.activation)
    return relative_error(exact, widened(rows, stacked) @ quantize(stacked, scheme).dequantized().T)


def deployed_factors(choices: Mapping[str, SiteQuantizer]) -> dict[str, NDArray[np.float32]]:
    """Site name -> factors, of the sites that have some."""
    return {
        name: item.smoothing_scales
        for name, item in choices.items()
        if item.smoothing_scales is not None
    }
