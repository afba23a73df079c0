"""From the choices of every site to the plan of a graph: factors folded, weights rounded, errors corrected."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tasks.graphs.sites import Site, layer_weight
from tasks.numerics.formats import NumberFormat, PerBlock, PerChannel
from tasks.observation.observer import SiteObservation
from tasks.observation.scales import Scales
from tasks.quantization.activation.quantizers import SiteQuantizer, deployed_factors, sample
from tasks.quantization.activation.uncalibrated import holds
from tasks.quantization.graph.folding import fold
from tasks.quantization.graph.plan import CastSite, GraphPlan, QuantizedSite
from tasks.quantization.recipe.catalog import Recipe
from tasks.quantization.recipe.submodules import by_site
from tasks.quantization.weight.quantize import QuantizedWeight, WeightScheme, multiplied, quantize
from tasks.quantization.weight.rounding import corrections, round_weights, train_site

SMALLEST_TABLE = 1 << 12
"""Values; smaller tables are positions and token types, and not worth a scale a row."""
NO_ROWS: NDArray[np.float32] = np.zeros((0, 0), np.float32)
_SHORT = (NumberFormat.FP16, NumberFormat.BF16)


def assemble(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    choices: Mapping[str, SiteQuantizer],
    kept: Collection[str],
    *,
    trained: Collection[str] = (),
    folding: bool = True,
) -> GraphPlan:
    """The plan of one recipe: sites in `kept` stay in high precision, and those in `trained` are trained.

    Without folding the model stays as it is. Raises `BadInput` when a site to be trained has fewer than 8 rows.
    """
    if recipe.weights.format in _SHORT:
        cast = tuple(
            CastSite(site, recipe.weights.format) for site in sites if site.name not in kept
        )
        return GraphPlan(model, cast, _tables(model, recipe))
    active = tuple(site for site in sites if site.name not in kept)
    factors = deployed_factors({site.name: choices[site.name] for site in active})
    folded, done = fold(model, active, factors) if folding else (model, frozenset[str]())
    recipes = by_site(recipe, sites)
    planned: list[QuantizedSite | CastSite] = [
        _planned(
            folded,
            site,
            sample(site, observed[site.name]),
            recipes[site.name],
            choices[site.name],
            folded=site.name in done,
            trained=site.name in trained,
        )
        for site in active
    ]
    if recipe.high_precision in _SHORT:
        planned += [CastSite(site, recipe.high_precision) for site in sites if site.name in kept]
    return GraphPlan(folded, tuple(planned), _tables(folded, recipe))


def from_scales(model: onnx.ModelProto, sites: tuple[Site, ...], scales: Scales) -> GraphPlan:
    """INT8 weights, one scale a channel, at every site that has a quantizer; nothing is folded."""
    choices = {name: SiteQuantizer(item, item.smoothing_scales) for name, item in scales.items()}
    planned = tuple(
        _planned(model, site, NO_ROWS, Recipe("", ""), choices[site.name], folded=False)
        for site in sites
        if site.name in scales
    )
    return GraphPlan(model, planned, {})


def layer_scheme(recipe: Recipe, weight: NDArray[np.float32]) -> WeightScheme:
    """The recipe's scheme, where the layer can have it: convolutions have neither blocks nor fewer than 8 bits."""
    scheme = recipe.weights
    narrow = scheme.format in (NumberFormat.INT4, NumberFormat.INT2) or isinstance(
        scheme.granularity, PerBlock
    )
    return (
        replace(scheme, format=NumberFormat.INT8, granularity=PerChannel())
        if narrow and weight.ndim > 2
        else scheme
    )


def find_tables(model: onnx.ModelProto) -> tuple[str, ...]:
    """Embedding tables: float constants [rows, width] that only Gather nodes read, row by row."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return tuple(
        item.name
        for item in model.graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT
        and len(item.dims) == 2
        and int(np.prod(item.dims)) >= SMALLEST_TABLE
        and readers.get(item.name)
        and all(_gathers_rows(node, item.name) for node in readers[item.name])
    )


def _planned(
    model: onnx.ModelProto,
    site: Site,
    kept: NDArray[np.float32],
    recipe: Recipe,
    choice: SiteQuantizer,
    *,
    folded: bool,
    trained: bool = False,
) -> QuantizedSite:
    weights = [layer_weight(model, layer) for layer in site.layers]
    if choice.smoothing_scales is not None:
        weights = [multiplied(weight, choice.smoothing_scales) for weight in weights]
        kept = kept / choice.smoothing_scales if kept.size else kept
    rows = kept if site.channel_axis == -1 else NO_ROWS  # a convolution's pixels are not its inputs
    rounded = round_weights(weights, rows, layer_scheme(recipe, weights[0]), recipe.rounding)
    activation = choice.activation
    if trained:
        rounded, activation = train_site(weights, rows, rounded, activation)
    corrected = corrections(weights, kept, rounded, activation) if recipe.bias_correction else None
    dynamic = recipe.activations is not None and recipe.activations.dynamic
    return QuantizedSite(
        site, rounded, activation, dynamic, None if folded else choice.smoothing_scales, corrected
    )


def _tables(model: onnx.ModelProto, recipe: Recipe) -> dict[str, QuantizedWeight | NumberFormat]:
    if recipe.tables is NumberFormat.FP32:
        return {}
    names = find_tables(model)
    constants = {item.name: item for item in model.graph.initializer}
    if recipe.tables in _SHORT:
        return {name: recipe.tables for name in names if holds(recipe.tables, constants[name])}
    scheme = WeightScheme(recipe.tables)
    return {name: quantize(numpy_helper.to_array(constants[name]), scheme) for name in names}


def _gathers_rows(node: onnx.NodeProto, table: str) -> bool:
    axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
    return node.op_type == "Gather" and node.input[0] == table and axis == 0
