"""From one observation and one recipe to a graph's plan."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx

from tasks.graphs.sites import Site
from tasks.numerics.formats import NumberFormat
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.ceilings import Ceilings
from tasks.observation.observer import SiteObservation
from tasks.observation.request_histograms import RequestHistograms
from tasks.observation.scales import Scales, check_scales
from tasks.quantization.activation.quantizers import SiteQuantizer, histogram
from tasks.quantization.activation.scale_limits import (
    below_ceilings,
    limit_changes,
    limit_diagnostics,
    limit_reaches,
)
from tasks.quantization.activation.uncalibrated import largest_values, overflowing
from tasks.quantization.graph.assemble import assemble
from tasks.quantization.graph.plan import GraphPlan, QuantizedSite
from tasks.quantization.pipeline.placement import excluded_nodes, raised_sites, trained_sites
from tasks.quantization.pipeline.preconditions import require_quantized
from tasks.quantization.pipeline.results import result_quantizers
from tasks.quantization.pipeline.tuning import Tuned, tune
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import Cast, Static
from tasks.quantization.report.diagnostics import (
    block_diagnostics,
    drift_diagnostics,
    exclusion_diagnostics,
    observation_diagnostics,
    product_diagnostics,
    raised_diagnostics,
    scale_diagnostics,
)
from tasks.quantization.sensitivity.measure import Sensitivity, by_loss


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """What a recipe made of an observation."""

    plan: GraphPlan
    excluded_nodes: tuple[str, ...]  # sites left in floating point, most sensitive first
    ranking: tuple[Sensitivity, ...]
    # What each quantizer saw in calibration; the range detector compares with it.
    reference: Mapping[str, ExponentHistogram]
    diagnostics: tuple[str, ...] = ()  # sentences on excluded sites, and on scales to look at

    @property
    def scales(self) -> Scales:
        """The fixed activation quantizers."""
        return self.plan.scales

    @property
    def results(self) -> Scales:
        """The quantizers of what layers make, by tensor."""
        return self.plan.results


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
    by_request: Mapping[str, RequestHistograms] | None = None,
) -> Derived:
    """Plan every site that the recipe quantizes.

    Sites that calibration never reached, or with zeros alone, get no fixed range. They stay in
    floating point, or keep the champion's range where its graph is kept.

    Args:
        model: The full-precision graph.
        sites: Where it can be quantized.
        observed: What each site saw in calibration.
        recipe: What is to be done.
        deployed: The champion's quantizers, where there is a champion.
        tuned: The search, where a recipe before has made it.
        losses: What each site alone costs the model's output, where that was measured; without
            them the sites are ranked by their local errors. Of a recipe that keeps high what
            drifts, it is what the champion's quantizers cost, which chooses these alone.
        largest_change: Bounds what a recipe that starts from the champion may do to its scales.
        ceilings: Bound ranges likewise, where the graph has smoothing scales.
        by_request: What the champion's quantizers would have seen of each calibration request.

    Raises:
        BadInput: The calibration set was empty or held NaN, a recipe that starts from the
            champion's graph has no champion that fits, or nothing would be left quantized.
    """
    if not recipe.quantized:
        names = tuple(site.name for site in sites)
        return Derived(GraphPlan(model, (), {}), names, (), {})
    tuned = tuned or tune(model, sites, observed, recipe, deployed, by_request, ceilings)
    if isinstance(recipe.weights, Cast):
        return _cast(model, sites, observed, recipe, tuned, recipe.weights.format)
    ranks = losses is not None and not recipe.drifting_sites
    ranking = by_loss(tuned.ranking, losses or {}) if ranks else tuned.ranking
    excluded = excluded_nodes(model, sites, ranking, recipe, deployed or {}, losses, tuned)
    require_quantized(sites, excluded, recipe)
    trained, untrained = trained_sites(ranking, observed, recipe, excluded)
    choices, changes = _limited(tuned, recipe, deployed or {}, largest_change, ceilings)
    raised = raised_sites(model, sites, ranking, losses, recipe)
    plan = assemble(
        model, sites, observed, recipe, choices, excluded, trained=trained, raised=raised
    )
    plan = replace(plan, results=result_quantizers(model, plan, observed, recipe))
    plan = _with_rest(plan, model, sites, observed, recipe)
    check_scales(plan.scales, where=f"recipe {recipe.name}")
    reference = {
        name: histogram(observed[name], item.smoothing_scales) for name, item in plan.scales.items()
    }
    diagnostics = (
        *observation_diagnostics(sites, observed, tuned.unknown, list(plan.scales)),
        *scale_diagnostics(plan, reference, plan.scales),
        *exclusion_diagnostics((), recipe.weights.format, untrained, _uncorrected(plan, recipe)),
        *limit_diagnostics(changes, largest_change),
        *drift_diagnostics(ranking, scales_alone=recipe.keeps_graph),
        *product_diagnostics(recipe),
        *block_diagnostics(plan, recipe),
        *raised_diagnostics(recipe, raised, len(sites)),
    )
    return Derived(plan, excluded, ranking, reference, diagnostics)


def _cast(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    tuned: Tuned,
    format: NumberFormat,
) -> Derived:
    """Plan products in a shorter float, but at the sites that it cannot hold."""
    over = overflowing(model, sites, observed, format)
    plan = assemble(model, sites, observed, recipe, tuned.choices, over)
    plan = _with_rest(plan, model, sites, observed, recipe)
    return Derived(plan, over, tuned.ranking, {}, exclusion_diagnostics(over, format, ()))


def _with_rest(
    plan: GraphPlan,
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
) -> GraphPlan:
    """Say in the plan what the rest computes in, and what calibration saw of it."""
    if recipe.rest is NumberFormat.FP32:
        return plan
    return replace(plan, rest=recipe.rest, largest=largest_values(model, sites, observed))


def _limited(
    tuned: Tuned,
    recipe: Recipe,
    deployed: Scales,
    largest_change: float | None,
    ceilings: Ceilings | None,
) -> tuple[Mapping[str, SiteQuantizer], Mapping[str, float]]:
    """Bound what is done to the champion's scales, and tell the changes that were held."""
    if recipe.keeps_placement:
        return limit_reaches(tuned.choices, deployed, largest_change or math.inf)
    if not recipe.keeps_graph:
        return tuned.choices, {}
    room = recipe.activation.headroom if isinstance(recipe.activation, Static) else 1.0
    choices = below_ceilings(tuned.choices, ceilings or {}, room)
    return limit_changes(choices, deployed, largest_change or math.inf)


def _uncorrected(plan: GraphPlan, recipe: Recipe) -> tuple[str, ...]:
    """Return quantized sites without a bias correction, of a recipe that makes some."""
    quantized = (item for item in plan.sites if isinstance(item, QuantizedSite))
    return tuple(
        item.site.name for item in quantized if recipe.bias_correction and item.corrections is None
    )
