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
from tasks.quantization.ranges import amax, require_data
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


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A quantizer for every site, and what each costs; recipes that differ only in what they keep high share it."""

    quantizers: Mapping[str, Quantizer]
    ranking: tuple[Sensitivity, ...]


def derive(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    deployed: Scales | None,
    tuned: Tuned | None = None,
) -> Derived:
    """Scales for every site that the recipe quantizes; `tuned` is given where a rung before found it.

    Raises `BadInput` when the calibration set was empty or held NaN, when a recipe that starts from the champion's
    graph has no champion that fits, and when a recipe would leave nothing quantized.
    """
    if not recipe.quantized:
        return Derived({}, tuple(site.name for site in sites), (), 0.0, {})
    _require_fit(sites, observed, recipe, deployed)
    tuned = tuned or tune(model, sites, observed, recipe, deployed)
    ranking = tuned.ranking
    kept = _kept(ranking, recipe, deployed or {})
    scales = {name: item for name, item in tuned.quantizers.items() if name not in kept}
    check_scales(scales, where=f"recipe {recipe.name}")
    share = sum(item.macs_share for item in ranking if item.site not in kept)
    return Derived(scales, kept, ranking, share, {name: _seen(observed[name], scales[name]) for name in scales})


def tune(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    deployed: Scales | None,
) -> Tuned:
    """Search the quantizers and rank the sites: the slow part of `derive`, which raises the same errors."""
    _require_fit(sites, observed, recipe, deployed)
    weights = {site.name: [layer_weight(model, layer) for layer in site.layers] for site in sites}
    quantizers = {
        site.name: _quantizer(site, observed[site.name], weights[site.name], recipe, deployed or {}) for site in sites
    }
    return Tuned(quantizers, sensitivity.rank(sites, observed, quantizers, weights))


def _require_fit(
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    deployed: Scales | None,
) -> None:
    for site in sites:
        if site.name not in observed:
            raise BadInput(f"site {site.name} was not observed: observe the calibration set again")
        try:
            require_data(observed[site.name].histogram)
        except BadInput as exc:
            raise BadInput(f"site {site.name}: {exc}") from exc
    if recipe.high_precision_sites >= len(sites):
        raise BadInput(
            f"recipe {recipe.name} would leave none of the {len(sites)} sites quantized: use a lower one, "
            "or full-precision"
        )
    if recipe.smoothing is Smoothing.DEPLOYED:
        _require_champion(sites, observed, recipe, deployed)


def _require_champion(
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    deployed: Scales | None,
) -> None:
    if not deployed:
        raise BadInput(
            f"recipe {recipe.name} keeps the champion's graph, but no quantized champion exists: use int8-smooth"
        )
    strange = set(deployed) - {site.name for site in sites}
    for name, item in deployed.items():
        if name in strange or (item.divisors is not None and item.divisors.shape != observed[name].channel_amax.shape):
            raise BadInput(f"the champion's scale of {name} does not fit this model's sites: use int8-smooth")


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
