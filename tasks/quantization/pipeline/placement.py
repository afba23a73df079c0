"""Which sites a recipe leaves in high precision, and which it trains."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import onnx

from tasks.graphs.sites import Site
from tasks.numerics.quantized_weight import WeightScheme
from tasks.observation.observer import SiteObservation
from tasks.observation.scales import Scales
from tasks.quantization.pipeline.tuning import Tuned
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import PerToken
from tasks.quantization.recipe.submodules import schemes_by_site
from tasks.quantization.sensitivity import mixed_precision
from tasks.quantization.sensitivity.measure import Sensitivity
from tasks.quantization.weight.held_out_rows import LEAST_ROWS


def site_costs(
    model: onnx.ModelProto, sites: tuple[Site, ...], losses: Mapping[str, float]
) -> tuple[mixed_precision.SiteCost, ...]:
    """Return every measured site's loss and its number of weights.

    The weights are what high precision costs in size and, by position, in products.
    """
    sizes = {item.name: math.prod(item.dims) for item in model.graph.initializer}
    return tuple(
        mixed_precision.SiteCost(
            site.name, losses[site.name], sum(sizes[layer.weight] for layer in site.layers)
        )
        for site in sites
        if site.name in losses
    )


def placements(
    model: onnx.ModelProto, sites: tuple[Site, ...], losses: Mapping[str, float]
) -> tuple[mixed_precision.PrecisionPlacement, ...]:
    """Return the Pareto front of loss and cost, cheapest first."""
    return mixed_precision.pareto_front(site_costs(model, sites, losses))


def remaining_loss(
    model: onnx.ModelProto, sites: tuple[Site, ...], losses: Mapping[str, float], recipe: Recipe
) -> float:
    """Return the fraction of the measured losses that a recipe's quantized sites keep, 0..1."""
    points = placements(model, sites, losses)
    return mixed_precision.keep(points, recipe.high_precision_sites).loss / max(
        points[0].loss, 1e-30
    )


def excluded_nodes(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    ranking: Sequence[Sensitivity],
    recipe: Recipe,
    deployed: Scales,
    losses: Mapping[str, float] | None,
    tuned: Tuned,
) -> tuple[str, ...]:
    """Return sites that stay in high precision, most sensitive first.

    What starts from the champion keeps its placement, with the sites that drift beside it. A mixed
    recipe is a point of the Pareto front of loss and cost. Sites of unknown range are excluded in
    any case, and count towards the number that a mixed recipe excludes.
    """
    if recipe.starts_from_champion:
        kept = tuple(item.site for item in ranking if item.site not in deployed)
        return (*kept, *drifting_sites(model, sites, ranking, recipe.drifting_sites, losses))
    if isinstance(recipe.activation, PerToken):
        rows = {site.name for site in sites if site.multiplies_rows}
        return tuple(item.site for item in ranking if item.site not in rows)
    ranked = [item.site for item in ranking if item.site not in tuned.unknown]
    count = max(recipe.high_precision_sites - len(tuned.unknown), 0)
    if losses is None or not count:
        return (*tuned.unknown, *ranked[:count])
    best = mixed_precision.keep(placements(model, sites, losses), count)
    return (*tuned.unknown, *(name for name in ranked if name in best.kept))


def raised_sites(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    ranking: Sequence[Sensitivity],
    losses: Mapping[str, float] | None,
    recipe: Recipe,
) -> tuple[str, ...]:
    """Return the sites whose weights get more bits: the least loss within the recipe's mean.

    A loss is the output's with this site alone quantized; without them the sites' local errors
    decide. A head with a scheme of its own is left out of the mean, and so are convolutions, which
    have INT8 anyway.
    """
    if recipe.raised is None:
        return ()
    schemes = schemes_by_site(recipe, sites)
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    layers = {
        site.name: [_flat(shapes[layer.weight], layer.output_axis) for layer in site.layers]
        for site in sites
        if schemes[site.name] == recipe.weights
        and all(len(shapes[layer.weight]) == 2 for layer in site.layers)
    }
    weights = sum(outputs * inputs for outputs, inputs in chain.from_iterable(layers.values()))
    bits = {
        name: (_stored_bits(schemes[name], own), _stored_bits(recipe.raised.weights, own))
        for name, own in layers.items()
    }
    measured = losses or {item.site: item.error for item in ranking}
    costs = [
        mixed_precision.SiteCost(name, measured[name], high - low)
        for name, (low, high) in bits.items()
        if name in measured
    ]
    room = recipe.raised.bits * weights - sum(low for low, _ in bits.values())
    return mixed_precision.within(costs, room).kept if costs else ()


def _flat(shape: tuple[int, ...], output_axis: int) -> tuple[int, int]:
    """Return outputs and inputs of a matrix."""
    return shape[output_axis], math.prod(shape) // shape[output_axis]


def _stored_bits(scheme: WeightScheme, layers: Sequence[tuple[int, int]]) -> int:
    return sum(scheme.stored_bits(outputs, inputs) for outputs, inputs in layers)


def drifting_sites(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    ranking: Sequence[Sensitivity],
    count: int,
    losses: Mapping[str, float] | None,
) -> tuple[str, ...]:
    """Return the sites whose high precision wins back most of what drift lost, for its weights.

    `losses` are the output's under the champion's quantizers on the new traffic, each site alone:
    a point of the Pareto front of these and the weights. Without them the local errors of these
    quantizers decide.
    """
    stale = [item for item in ranking if item.stale is not None]
    if losses is not None and count:
        best = mixed_precision.keep(placements(model, sites, losses), count)
        return tuple(item.site for item in stale if item.site in best.kept)
    order = sorted(stale, key=lambda item: (item.error - (item.stale or 0.0), item.site))
    return tuple(item.site for item in order[:count])


def trained_sites(
    ranking: Sequence[Sensitivity],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    excluded: Sequence[str],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the most sensitive sites that can be trained, and those passed over.

    The latter are more sensitive, and have too few rows.
    """
    quantized = [item.site for item in ranking if item.site not in excluded]
    able = [name for name in quantized if len(observed[name].rows) >= LEAST_ROWS]
    chosen, wanted = tuple(able[: recipe.trained_sites]), quantized[: recipe.trained_sites]
    return chosen, tuple(name for name in wanted if name not in chosen)
