"""What must hold before a recipe is applied to an observation."""

from collections.abc import Collection, Mapping

from infra.errors import BadInput
from tasks.graphs.sites import Site
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.quantizer import Quantizer
from tasks.observation.observer import SiteObservation
from tasks.observation.scales import Scales
from tasks.quantization.activation.ranges import require_data
from tasks.quantization.activation.uncalibrated import unknown_ranges
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import PerToken

SHARED = "tuning"
"""What a recipe is called whose result serves others that differ in later steps."""
Observed = Mapping[str, SiteObservation]


def require_fit(
    sites: tuple[Site, ...], observed: Observed, recipe: Recipe, deployed: Scales | None
) -> None:
    """Raise `BadInput` where no graph can follow from recipe, observation and champion."""
    _require_observed(sites, observed)
    if len(unknown_ranges(sites, observed, recipe)) == len(sites):
        raise BadInput(
            f"{_called(recipe)} fixes ranges of activations, and calibration saw nothing but "
            f"zeros at all {len(sites)} sites: look at the calibration set, or use a weight-only "
            "recipe (`requant recipes`)"
        )
    if recipe.high_precision_sites >= len(sites):
        raise BadInput(
            f"{_called(recipe)} would leave none of the {len(sites)} sites quantized: "
            "use a lower one, or full-precision"
        )
    if isinstance(recipe.activation, PerToken) and not any(item.multiplies_rows for item in sites):
        raise BadInput(
            f"{_called(recipe)} gives each row of a matrix product a range, and none of the "
            f"{len(sites)} sites is one without a bias of its own: use int8-dynamic or int8-smooth"
        )
    if recipe.starts_from_champion:
        _require_champion(sites, observed, recipe, deployed)


def require_quantized(sites: tuple[Site, ...], excluded: Collection[str], recipe: Recipe) -> None:
    """Raise `BadInput` where what drifts and what the champion keeps high are all there is."""
    if recipe.drifting_sites and len(excluded) >= len(sites):
        raise BadInput(
            f"recipe {recipe.name} would leave none of the {len(sites)} sites quantized: "
            "use resmooth, or full-precision"
        )


def _called(recipe: Recipe) -> str:
    """Name a recipe; what several recipes share, as their search is, is called after none."""
    return "the recipe" if recipe.name == SHARED else f"recipe {recipe.name}"


def _require_observed(sites: tuple[Site, ...], observed: Observed) -> None:
    for site in sites:
        if site.name not in observed:
            raise BadInput(f"site {site.name} was not observed: observe the calibration set again")
        if observed[site.name].histogram.nonfinite:
            try:
                require_data(observed[site.name].histogram)
            except BadInput as exc:
                raise BadInput(f"site {site.name}: {exc}") from exc
    if not any(observed[site.name].histogram.total for site in sites):
        require_data(ExponentHistogram.empty())


def _require_champion(
    sites: tuple[Site, ...], observed: Observed, recipe: Recipe, deployed: Scales | None
) -> None:
    if not deployed:
        raise BadInput(
            f"recipe {recipe.name} starts from the champion's graph, but no quantized champion "
            "exists: use int8-smooth"
        )
    strange = set(deployed) - {site.name for site in sites}
    for name, item in deployed.items():
        if name in strange or _is_narrower(item, observed[name]):
            raise BadInput(
                f"the champion's scale of {name} does not fit this model's sites: use int8-smooth"
            )


def _is_narrower(quantizer: Quantizer, observed: SiteObservation) -> bool:
    """Return whether smoothing scales are of another width than the site.

    A site that was never reached has no width to compare.
    """
    scales, width = quantizer.smoothing_scales, observed.channel_amax
    return scales is not None and bool(width.size) and scales.shape != width.shape
