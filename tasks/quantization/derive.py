"""From one observation and one recipe to a graph's plan: the pure heart of a candidate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from infra.errors import BadInput
from tasks.graphs.sites import Site, layer_weight
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.ceilings import Ceilings
from tasks.observation.observer import SiteObservation
from tasks.observation.request_histograms import RequestHistograms
from tasks.observation.scales import Quantizer, Scales, check_scales
from tasks.quantization.activation.quantizers import (
    SiteQuantizer,
    choose,
    deployed_factors,
    histogram,
    quantizer,
)
from tasks.quantization.activation.ranges import require_data
from tasks.quantization.activation.scale_limits import held_scale_diagnostics, hold, under
from tasks.quantization.activation.uncalibrated import overflowing, unknown_ranges
from tasks.quantization.graph.assemble import assemble
from tasks.quantization.graph.folding import fold
from tasks.quantization.graph.plan import GraphPlan, QuantizedSite
from tasks.quantization.recipe.catalog import Recipe, Smoothing
from tasks.quantization.recipe.submodules import by_site
from tasks.quantization.report.diagnostics import (
    exclusion_diagnostics,
    observation_diagnostics,
    scale_diagnostics,
)
from tasks.quantization.sensitivity import measure as sensitivity
from tasks.quantization.sensitivity import mixed_precision as mixed
from tasks.quantization.sensitivity.measure import Sensitivity
from tasks.quantization.weight.rounding import LEAST_ROWS


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """What a recipe made of an observation."""

    plan: GraphPlan
    excluded_nodes: tuple[str, ...]  # sites left in floating point, most sensitive first
    ranking: tuple[Sensitivity, ...]
    quantized_share: (
        float  # of the weight products' multiply-accumulates per position, below full precision
    )
    reference: Mapping[
        str, ExponentHistogram
    ]  # what each quantizer saw in calibration; the range detector compares
    diagnostics: tuple[
        str, ...
    ] = ()  # sentences on sites that were left alone, and on scales to look at

    @property
    def scales(self) -> Scales:
        """The fixed activation quantizers."""
        return self.plan.scales


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A choice for every site, and what each costs; recipes that differ only in what they keep high share it."""

    choices: Mapping[str, SiteQuantizer]
    ranking: tuple[Sensitivity, ...]
    unknown: tuple[str, ...] = ()  # sites whose range would be a guess


def derive(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    deployed: Scales | None,
    tuned: Tuned | None = None,
    losses: Mapping[str, float] | None = None,
    largest_change: float | None = None,
    ceilings: Ceilings | None = None,
    seen: Mapping[str, RequestHistograms] | None = None,
) -> Derived:
    """The plan for every site that the recipe quantizes; `tuned` is given where a candidate before found it.

    `losses` are what each site alone costs the model's output, where that was measured; without them the sites are
    ranked by their local errors.

    `largest_change` bounds what a recipe that keeps the champion's graph may do to its scales, and so do `ceilings`
    of smoothed values where the graph divides by factors. `seen` is what the champion's quantizers would have seen
    of each calibration request, for rules that weigh them.

    Sites that calibration never reached, or with zeros alone, get no fixed range: they stay in floating point, or keep
    the champion's range where its graph is kept.

    Raises `BadInput` when the calibration set was empty or held NaN, when a recipe that starts from the champion's
    graph has no champion that fits, and when a recipe would leave nothing quantized.
    """
    names = tuple(site.name for site in sites)
    if not recipe.quantized:
        return Derived(GraphPlan(model, (), {}), names, (), 0.0, {})
    tuned = tuned or tune(model, sites, observed, recipe, deployed, seen)
    if not recipe.weights.format.is_scaled:
        over = overflowing(model, sites, observed, recipe.weights.format)
        plan = assemble(model, sites, observed, recipe, tuned.choices, over)
        share = sum(item.macs_share for item in tuned.ranking if item.site not in over)
        return Derived(
            plan,
            over,
            tuned.ranking,
            share,
            {},
            exclusion_diagnostics(over, recipe.weights.format, ()),
        )
    ranking = tuned.ranking if losses is None else sensitivity.by_loss(tuned.ranking, losses)
    kept = _kept(model, sites, ranking, recipe, deployed or {}, losses, tuned.unknown)
    trained, untrained = _trained(ranking, observed, recipe, kept)
    choices, held = tuned.choices, dict[str, float]()
    if recipe.keeps_graph:
        choices = under(choices, ceilings or {})
        choices, held = hold(choices, deployed or {}, largest_change or math.inf)
    plan = assemble(model, sites, observed, recipe, choices, kept, trained=trained)
    check_scales(plan.scales, where=f"recipe {recipe.name}")
    share = sum(item.macs_share for item in ranking if item.site not in kept)
    reference = {
        name: histogram(observed[name], item.smoothing_scales) for name, item in plan.scales.items()
    }
    diagnostics = (
        *observation_diagnostics(sites, observed, tuned.unknown, list(plan.scales)),
        *scale_diagnostics(plan, reference, plan.scales),
        *exclusion_diagnostics((), recipe.weights.format, untrained, _uncorrected(plan, recipe)),
        *held_scale_diagnostics(held, largest_change),
    )
    return Derived(plan, kept, ranking, share, reference, diagnostics)


def tune(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    deployed: Scales | None,
    seen: Mapping[str, RequestHistograms] | None = None,
) -> Tuned:
    """Make every site's choice and rank the sites: the slow part of `derive`, which raises the same errors."""
    _require_fit(sites, observed, recipe, deployed)
    weights = {site.name: [layer_weight(model, layer) for layer in site.layers] for site in sites}
    unknown, recipes = unknown_ranges(sites, observed, recipe), by_site(recipe, sites)
    choices = {
        site.name: _without_range(site.name, recipe, deployed or {})
        if site.name in unknown
        else choose(
            site,
            observed[site.name],
            weights[site.name],
            recipes[site.name],
            deployed or {},
            (seen or {}).get(site.name),
        )
        for site in sites
    }
    if (
        recipe.smoothing is Smoothing.EQUALIZED
    ):  # factors that cannot be folded would cost a product of their own
        _, folded = fold(model, sites, deployed_factors(choices))
        choices = {
            name: item if name in folded or name in unknown else _plain(observed[name], recipe)
            for name, item in choices.items()
        }
    schemes = {name: item.weights for name, item in recipes.items()}
    return Tuned(choices, sensitivity.rank(sites, observed, choices, weights, schemes), unknown)


def _without_range(site: str, recipe: Recipe, deployed: Scales) -> SiteQuantizer:
    """A recalibration keeps what it knows nothing new of."""
    if recipe.keeps_graph and site in deployed:
        return SiteQuantizer(deployed[site], deployed[site].smoothing_scales)
    return SiteQuantizer(None)


def _plain(observed: SiteObservation, recipe: Recipe) -> SiteQuantizer:
    return SiteQuantizer(quantizer(observed, recipe.activations) if recipe.activations else None)


def _require_fit(
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    deployed: Scales | None,
) -> None:
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
    if len(unknown_ranges(sites, observed, recipe)) == len(sites):
        raise BadInput(
            f"recipe {recipe.name} fixes ranges of activations, and calibration saw nothing but zeros at all "
            f"{len(sites)} sites: look at the calibration set, or use a weight-only recipe (`requant recipes`)"
        )
    if recipe.high_precision_sites >= len(sites):
        raise BadInput(
            f"recipe {recipe.name} would leave none of the {len(sites)} sites quantized: use a lower one, "
            "or full-precision"
        )
    if recipe.keeps_graph:
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
        if name in strange or _is_narrower(item, observed[name]):
            raise BadInput(
                f"the champion's scale of {name} does not fit this model's sites: use int8-smooth"
            )


def _is_narrower(quantizer: Quantizer, observed: SiteObservation) -> bool:
    """Whether factors are of another width than the site; one that was never reached has none to compare."""
    seen = observed.channel_amax
    return (
        quantizer.smoothing_scales is not None
        and bool(seen.size)
        and quantizer.smoothing_scales.shape != seen.shape
    )


def site_costs(
    model: onnx.ModelProto, sites: tuple[Site, ...], losses: Mapping[str, float]
) -> tuple[mixed.SiteCost, ...]:
    """Every measured site's loss and its weights: what high precision costs in size and, by position, in products."""
    sizes = {item.name: math.prod(item.dims) for item in model.graph.initializer}
    return tuple(
        mixed.SiteCost(
            site.name, losses[site.name], sum(sizes[layer.weight] for layer in site.layers)
        )
        for site in sites
        if site.name in losses
    )


def _kept(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    ranking: tuple[Sensitivity, ...],
    recipe: Recipe,
    deployed: Scales,
    losses: Mapping[str, float] | None,
    unknown: tuple[str, ...],
) -> tuple[str, ...]:
    """A recalibration keeps the champion's placement; a mixed recipe is a point of the front of loss and cost.

    Sites of unknown range are kept in any case, and count towards the number that a mixed recipe keeps.
    """
    if recipe.keeps_graph:
        return tuple(item.site for item in ranking if item.site not in deployed)
    known = [item.site for item in ranking if item.site not in unknown]
    count = max(recipe.high_precision_sites - len(unknown), 0)
    if losses is None or not count:
        return (*unknown, *known[:count])
    best = mixed.keep(mixed.pareto_front(site_costs(model, sites, losses)), count)
    return (*unknown, *(name for name in known if name in best.kept))


def _uncorrected(plan: GraphPlan, recipe: Recipe) -> tuple[str, ...]:
    """Quantized sites without a bias correction, of a recipe that makes some."""
    quantized = (item for item in plan.sites if isinstance(item, QuantizedSite))
    return tuple(
        item.site.name for item in quantized if recipe.bias_correction and item.corrections is None
    )


def _trained(
    ranking: tuple[Sensitivity, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    kept: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The most sensitive sites that can be trained, and those passed over although they are more sensitive."""
    quantized = [item.site for item in ranking if item.site not in kept]
    able = [name for name in quantized if len(observed[name].rows) >= LEAST_ROWS]
    chosen = tuple(able[: recipe.trained_sites])
    return chosen, tuple(name for name in quantized[: recipe.trained_sites] if name not in chosen)
