"""The search for every site's quantizer: the slow part, which recipes share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from tasks.graphs.sites import Site, layer_weight
from tasks.numerics.formats import NumberFormat
from tasks.numerics.output_error import output_error
from tasks.numerics.quantized_weight import WeightScheme
from tasks.observation.ceilings import Ceilings, bounded_by_channel
from tasks.observation.observer import SiteObservation
from tasks.observation.request_histograms import RequestHistograms
from tasks.observation.scales import Scales
from tasks.quantization.activation.quantizers import (
    SiteInput,
    SiteQuantizer,
    choose,
    chosen_smoothing_scales,
    plain,
)
from tasks.quantization.activation.uncalibrated import unknown_ranges
from tasks.quantization.graph.folding import fold
from tasks.quantization.pipeline.preconditions import SHARED, require_fit
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import Awq, Equalized, Nearest, Searched, Static
from tasks.quantization.recipe.submodules import schemes_by_site
from tasks.quantization.sensitivity.measure import Sensitivity, rank

VERSION = 6
"""Raised when the search changes; a recipe's own version also tells what is done with weights."""
NEGLIGIBLE_ERROR = 8e-5
"""Squared error over squared output: what 8 bits of the output itself would cost, if it is normal
and its range four standard deviations to each side, (8 / 255)^2 / 12. A site below it is not worth
a product of its own at every call."""


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A choice for every site, and what each costs.

    Recipes that differ only in the sites they exclude share it.
    """

    choices: Mapping[str, SiteQuantizer]
    ranking: tuple[Sensitivity, ...]
    unknown: tuple[str, ...] = ()  # sites whose range would be a guess


def tuning_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe without what does not change its quantizers.

    AWQ alone among the roundings brings smoothing scales.
    """
    return replace(
        recipe,
        name=recipe.name if recipe.keeps_graph else SHARED,
        summary="",
        rounding=recipe.rounding if isinstance(recipe.rounding, Awq) else Nearest(),
        bias_correction=False,
        tables=NumberFormat.FP32,
        high_precision=None,
        int8_products=False,
        raised=None,
        drifting_sites=0,
        version=VERSION,
    )


def tune(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    deployed: Scales | None,
    by_request: Mapping[str, RequestHistograms] | None = None,
    ceilings: Ceilings | None = None,
) -> Tuned:
    """Make every site's choice and rank the sites.

    `by_request` is what the champion's quantizers would have seen of each calibration request, for
    rules that weigh them. `ceilings` bound what a new search under the champion's placement sees.
    Raises `BadInput` as `require_fit` does.
    """
    require_fit(sites, observed, recipe, deployed)
    if recipe.keeps_placement:
        observed = bounded_by_channel(observed, deployed or {}, ceilings or {})
    unknown, schemes = unknown_ranges(sites, observed, recipe), schemes_by_site(recipe, sites)
    sources = {
        site.name: SiteInput(
            site,
            observed[site.name],
            [layer_weight(model, layer) for layer in site.layers],
            schemes.get(site.name, WeightScheme()),
            (deployed or {}).get(site.name),
            (by_request or {}).get(site.name),
        )
        for site in sites
    }
    choices = {
        name: _without_range(source, recipe) if name in unknown else choose(source, recipe)
        for name, source in sources.items()
    }
    if isinstance(recipe.smoothing, Equalized) and isinstance(recipe.activation, Static):
        choices = _foldable(model, sources, choices, unknown, recipe.activation)
    if isinstance(recipe.smoothing, Searched) and isinstance(recipe.activation, Static):
        choices = _worth_a_product(model, sources, choices, recipe.activation)
    weights = {name: source.weights for name, source in sources.items()}
    stale = deployed if recipe.starts_from_champion else None
    return Tuned(choices, rank(sites, observed, choices, weights, schemes, stale), unknown)


def deployed_choices(sites: tuple[Site, ...], deployed: Scales) -> Tuned:
    """Return a champion's own quantizers as choices; its other sites have none."""
    choices = {name: SiteQuantizer(item, item.smoothing_scales) for name, item in deployed.items()}
    others = tuple(site.name for site in sites if site.name not in deployed)
    return Tuned({**dict.fromkeys(others, SiteQuantizer(None)), **choices}, (), others)


def _without_range(source: SiteInput, recipe: Recipe) -> SiteQuantizer:
    """Keep what is known nothing new of, where it starts from the champion."""
    if recipe.starts_from_champion and source.deployed is not None:
        return SiteQuantizer(source.deployed, source.deployed.smoothing_scales)
    return SiteQuantizer(None)


def _foldable(
    model: onnx.ModelProto,
    sources: Mapping[str, SiteInput],
    choices: Mapping[str, SiteQuantizer],
    unknown: tuple[str, ...],
    scheme: Static,
) -> dict[str, SiteQuantizer]:
    """Drop smoothing scales that cannot be folded: they would cost a product of their own."""
    sites = tuple(source.site for source in sources.values())
    _, folded = fold(model, sites, chosen_smoothing_scales(choices))
    return {
        name: choice if name in folded or name in unknown else plain(sources[name], scheme)
        for name, choice in choices.items()
    }


def _worth_a_product(
    model: onnx.ModelProto,
    sources: Mapping[str, SiteInput],
    choices: Mapping[str, SiteQuantizer],
    scheme: Static,
) -> dict[str, SiteQuantizer]:
    """Drop smoothing scales that stay a product in the graph, where the site hardly errs anyway."""
    sites = tuple(source.site for source in sources.values())
    scales = chosen_smoothing_scales(choices)
    _, folded = fold(model, sites, scales)
    kept = dict(choices)
    for name in set(scales) - folded:
        source, without = sources[name], plain(sources[name], scheme)
        if without.activation is None:
            continue
        stacked = np.concatenate(source.weights)
        error = output_error(source.observed.rows, stacked, without.activation, source.scheme)
        if error <= NEGLIGIBLE_ERROR:
            kept[name] = without
    return kept
