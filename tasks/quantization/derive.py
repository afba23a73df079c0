"""From one observation and one recipe to scales: the pure heart of a rung."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.observation.histogram import ExponentHistogram
from tasks.observation.observer import SiteObservation
from tasks.observation.scales import Quantizer, Scales, check_scales
from tasks.observation.sites import Site, layer_weight
from tasks.quantization import sensitivity, smoothing
from tasks.quantization.ranges import amax
from tasks.quantization.recipes import Recipe, Smoothing
from tasks.quantization.sensitivity import Sensitivity


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """What a recipe made of an observation."""

    scales: Scales
    kept_high: tuple[str, ...]  # sites left in floating point, most sensitive first
    ranking: tuple[Sensitivity, ...]
    int8_share: float  # of the weight products' multiply-accumulates per position
    reference: Mapping[str, ExponentHistogram]  # what each quantizer saw in calibration; the range lens compares


def derive(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    deployed: Scales | None,
) -> Derived:
    """Scales for every site that the recipe quantizes.

    Raises `BadInput` when the calibration set was empty, held NaN, or when a recipe that starts from the champion's
    graph has no champion.
    """
    if not recipe.quantized:
        return Derived({}, tuple(site.name for site in sites), (), 0.0, {})
    if recipe.smoothing is Smoothing.DEPLOYED and not deployed:
        raise BadInput(
            f"recipe {recipe.name} keeps the champion's graph, but no quantized champion exists: use int8-smooth"
        )
    weights = {site.name: [layer_weight(model, layer) for layer in site.layers] for site in sites}
    quantizers = {
        site.name: _quantizer(site, observed[site.name], weights[site.name], recipe, deployed or {}) for site in sites
    }
    ranking = sensitivity.rank(sites, observed, quantizers, weights)
    kept = _kept(ranking, recipe, deployed or {})
    scales = {name: item for name, item in quantizers.items() if name not in kept}
    check_scales(scales, where=f"recipe {recipe.name}")
    share = sum(item.macs_share for item in ranking if item.site not in kept)
    return Derived(scales, kept, ranking, share, {name: _seen(observed[name], scales[name]) for name in scales})


def _quantizer(
    site: Site,
    observed: SiteObservation,
    weights: list[NDArray[np.float32]],
    recipe: Recipe,
    deployed: Scales,
) -> Quantizer:
    smoothable = site.can_smooth and observed.rows.size > 0
    if recipe.smoothing is Smoothing.SEARCHED and smoothable:
        return smoothing.search(observed, weights, recipe.rule).quantizer
    divisors = (
        deployed[site.name].divisors if recipe.smoothing is Smoothing.DEPLOYED and site.name in deployed else None
    )
    if divisors is None:
        return Quantizer(amax(observed.histogram, recipe.rule))
    return Quantizer(smoothing.smoothed_amax(observed, divisors, recipe.rule), divisors)


def _kept(ranking: tuple[Sensitivity, ...], recipe: Recipe, deployed: Scales) -> tuple[str, ...]:
    """A recalibration keeps the champion's placement; a mixed recipe keeps the most sensitive sites high."""
    if recipe.smoothing is Smoothing.DEPLOYED:
        return tuple(item.site for item in ranking if item.site not in deployed)
    return tuple(item.site for item in ranking[: recipe.high_precision_sites])


def _seen(observed: SiteObservation, quantizer: Quantizer) -> ExponentHistogram:
    """The quantizer's own input: exact without smoothing, from the observed rows with it."""
    if quantizer.divisors is None:
        return observed.histogram
    seen = ExponentHistogram.of(observed.rows / quantizer.divisors)
    return ExponentHistogram(seen.counts, float((observed.channel_amax / quantizer.divisors).max()))
