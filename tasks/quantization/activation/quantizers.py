"""What each site's activation becomes: a fixed quantizer, a range at run time, or nothing.

Every technique of smoothing has one handler: see `_HANDLERS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.graphs.sites import Site
from tasks.numerics.block_floats import BlockQuantizer, tensor_scale
from tasks.numerics.formats import LARGEST, SMALLEST, NumberFormat
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.output_error import output_error, squared_error
from tasks.numerics.quantized_weight import WeightScheme
from tasks.numerics.quantizer import Quantizer
from tasks.observation.observer import NOTHING_KEPT, SiteObservation
from tasks.observation.request_histograms import RequestHistograms
from tasks.quantization.activation import awq_scales, equalization, smoothquant
from tasks.quantization.activation.ranges import amax, nearest
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import (
    Awq,
    DeployedSmoothing,
    Equalized,
    PerBlockOfToken,
    PerToken,
    RangeRule,
    Searched,
    Static,
)


@dataclass(frozen=True, slots=True, eq=False)
class SiteQuantizer:
    """One site's activation."""

    activation: Quantizer | None  # None: dynamic, or left in floating point
    # [channels]; equal to the activation's own, where it has some.
    smoothing_scales: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SiteInput:
    """What a choice for one site follows from."""

    site: Site
    observed: SiteObservation
    weights: Sequence[NDArray[np.float32]]  # one a layer, [outputs, inputs...]
    scheme: WeightScheme  # how they are stored
    deployed: Quantizer | None = None  # the champion's, where its graph quantizes the site
    # What the deployed quantizer would have seen of each calibration request. Without it all
    # requests count alike, and where there are smoothing scales the kept rows stand for them.
    by_request: RequestHistograms | None = None


def choose(source: SiteInput, recipe: Recipe) -> SiteQuantizer:
    """Return the recipe's choice for one site."""
    if not isinstance(recipe.activation, Static):
        return _of_weights_alone(source, recipe)
    return _HANDLERS[type(recipe.smoothing)](source, recipe.activation)


def _of_weights_alone(source: SiteInput, recipe: Recipe) -> SiteQuantizer:
    """Scale the activation where AWQ asks for it, or smooth it for a range of each token."""
    rows = source.observed.rows
    if isinstance(recipe.activation, PerToken) and isinstance(recipe.smoothing, Searched):
        if not source.site.multiplies_rows or not rows.size:
            return SiteQuantizer(None)
        return SiteQuantizer(
            None, smoothquant.search_by_token(source.observed, source.weights, source.scheme)
        )
    if isinstance(recipe.rounding, Awq) and source.site.can_smooth and rows.size:
        best = awq_scales.search(rows, source.weights, source.scheme)
        return SiteQuantizer(None, best.smoothing_scales)
    return SiteQuantizer(None)


def plain(source: SiteInput, scheme: Static) -> SiteQuantizer:
    """Return the choice without smoothing."""
    return SiteQuantizer(quantizer(source.observed, scheme))


def _equalized(source: SiteInput, scheme: Static) -> SiteQuantizer:
    if not sample(source.site, source.observed).size:
        return plain(source, scheme)
    largest = source.observed.channel_amax
    ranges = equalization.input_ranges(source.weights, largest.size)
    scales = equalization.smoothing_scales(largest, ranges)
    fixed = quantizer(source.observed, scheme, scales)
    return SiteQuantizer(fixed, scales)


def _searched(source: SiteInput, scheme: Static) -> SiteQuantizer:
    if not source.site.can_smooth or not source.observed.rows.size:
        return plain(source, scheme)
    best = smoothquant.search(
        source.observed,
        source.weights,
        scheme.rule,
        scheme=source.scheme,
        headroom=scheme.headroom,
    ).quantizer
    return SiteQuantizer(best, best.smoothing_scales)


def _deployed(source: SiteInput, scheme: Static) -> SiteQuantizer:
    """Keep the champion's format and smoothing scales, and find its range again."""
    before = source.deployed
    if before is None:
        return plain(source, scheme)
    near = _beside(before, source) if scheme.rule is RangeRule.MSE else None
    rule = scheme.rule if before.format is NumberFormat.INT8 else RangeRule.MAX
    kept = Static(before.format, before.bounds is None, rule, scheme.headroom)
    fixed = quantizer(source.observed, kept, before.smoothing_scales, near)
    return SiteQuantizer(fixed, before.smoothing_scales)


_HANDLERS: Mapping[type, Callable[[SiteInput, Static], SiteQuantizer]] = {
    type(None): plain,
    Equalized: _equalized,
    Searched: _searched,
    DeployedSmoothing: _deployed,
}


def _beside(before: Quantizer, source: SiteInput) -> float | None:
    """Return the clip next to the deployed one that is as good as any; None for FP8."""
    if before.format is not NumberFormat.INT8 or not source.observed.histogram.amax:
        return None
    if source.by_request is not None:
        return nearest(source.by_request.cost, source.by_request.amax, before.amax)
    smoothed = histogram(source.observed, before.smoothing_scales)
    return nearest(lambda clip: squared_error(smoothed, clip), smoothed.amax, before.amax)


def sample(site: Site, observed: SiteObservation) -> NDArray[np.float32]:
    """Return what was kept of the site's channels, [n, channels]: rows, or pixels.

    Nothing is kept where its layers read other axes.
    """
    if site.channel_axis == -1:
        return observed.rows
    return observed.pixels if all(layer.op == "Conv" for layer in site.layers) else NOTHING_KEPT


def histogram(
    observed: SiteObservation, smoothing_scales: NDArray[np.float32] | None
) -> ExponentHistogram:
    """Return the histogram of the quantizer's own input.

    It is exact without smoothing scales, and from the kept rows or pixels with them.
    """
    if smoothing_scales is None or not observed.histogram.total:
        return observed.histogram
    smoothed = ExponentHistogram.of(observed.kept / smoothing_scales)
    largest = float((observed.channel_amax / smoothing_scales).max())
    return ExponentHistogram(smoothed.counts, largest)


def quantizer(
    observed: SiteObservation,
    scheme: Static,
    smoothing_scales: NDArray[np.float32] | None = None,
    largest: float | None = None,
) -> Quantizer:
    """Return the quantizer of an activation after its division.

    Args:
        observed: What the site saw.
        scheme: Format, zero-point, range rule and headroom.
        smoothing_scales: What divides the activation, [channels].
        largest: Its range without headroom, where that is known already.
    """
    if largest is None:
        largest = _range(observed, scheme.rule, smoothing_scales)
    room = scheme.headroom
    amax_with_room = min(largest * room, LARGEST)
    if scheme.symmetric:
        return Quantizer(amax_with_room, smoothing_scales, scheme.format)
    by = np.float32(1) if smoothing_scales is None else smoothing_scales
    low = room * max(float((observed.channel_low / by).min(initial=0.0)), -largest)
    high = room * min(float((observed.channel_high / by).max(initial=0.0)), largest)
    # All zeros, or next to it: any range will do whose step is a normal number.
    bounds = (low, max(high, low + SMALLEST))
    return Quantizer(amax_with_room, smoothing_scales, scheme.format, bounds)


def block_quantizer(observed: SiteObservation, recipe: Recipe) -> BlockQuantizer | None:
    """Return what rounds a site's activation in blocks; None where the recipe asks for none."""
    scheme = recipe.activation
    if not isinstance(scheme, PerBlockOfToken):
        return None
    if scheme.format is not NumberFormat.FP4:
        return BlockQuantizer(scheme.format)
    largest = min(observed.histogram.amax * scheme.headroom, LARGEST)
    return BlockQuantizer(scheme.format, tensor_scale(largest))


def _range(
    observed: SiteObservation, rule: RangeRule, smoothing_scales: NDArray[np.float32] | None
) -> float:
    if smoothing_scales is None:
        return amax(observed.histogram, rule)
    return smoothquant.smoothed_amax(observed, smoothing_scales, rule)


def choice_error(
    observed: SiteObservation,
    weights: Sequence[NDArray[np.float32]],
    choice: SiteQuantizer,
    scheme: WeightScheme,
) -> float:
    """Return the output error of a choice over the observed rows; weights are [outputs, inputs]."""
    return output_error(
        observed.rows,
        np.concatenate(list(weights)),
        choice.activation,
        scheme,
        smoothing_scales=choice.smoothing_scales,
    )


def chosen_smoothing_scales(choices: Mapping[str, SiteQuantizer]) -> dict[str, NDArray[np.float32]]:
    """Return site name -> smoothing scales, of the sites that have some."""
    return {
        name: choice.smoothing_scales
        for name, choice in choices.items()
        if choice.smoothing_scales is not None
    }
