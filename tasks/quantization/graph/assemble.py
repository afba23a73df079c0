"""From the choices of every site to the plan of a graph.

Smoothing scales are folded, weights rounded, and errors corrected.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.graphs.sites import Layer, Site, layer_weight
from tasks.graphs.weights import constant_values
from tasks.numerics.block_floats import BlockQuantizer, fake_quantize_blocks
from tasks.numerics.formats import NumberFormat, PerBlock, PerChannel, ScaleFormat
from tasks.numerics.quantized_weight import QuantizedWeight, WeightScheme, multiplied, quantize
from tasks.numerics.quantizer import Quantizer
from tasks.observation.observer import SiteObservation
from tasks.quantization.activation.quantizers import (
    SiteQuantizer,
    block_quantizer,
    chosen_smoothing_scales,
    sample,
)
from tasks.quantization.activation.uncalibrated import holds
from tasks.quantization.graph.folding import fold
from tasks.quantization.graph.plan import CastSite, GraphPlan, QuantizedSite
from tasks.quantization.graph.recurrent import find_recurrent
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import SHORT_FLOATS, Cast, Dynamic, PerToken
from tasks.quantization.recipe.submodules import schemes_by_site
from tasks.quantization.weight.rounding import (
    corrections,
    corrections_of_means,
    round_weights,
    train_site,
    with_room_for,
)

SMALLEST_TABLE = 1 << 12
"""Values; smaller tables are positions and token types, and not worth a scale a row."""
NO_ROWS: NDArray[np.float32] = np.zeros((0, 0), np.float32)


def assemble(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    choices: Mapping[str, SiteQuantizer],
    excluded: Collection[str],
    *,
    trained: Collection[str] = (),
    raised: Collection[str] = (),
    folding: bool = True,
) -> GraphPlan:
    """Return the plan of one recipe.

    Args:
        model: The full-precision graph.
        sites: Where it can be quantized.
        observed: What each site saw.
        recipe: What is to be done.
        choices: What each site's activation becomes.
        excluded: Sites that stay in high precision.
        trained: Sites that are trained.
        raised: Sites whose weights have more bits, of a recipe with a mean of bits.
        folding: Without it the model stays as it is.

    Raises:
        BadInput: A site to be trained has fewer than 8 rows.
    """
    active = tuple(site for site in sites if site.name not in excluded)
    if isinstance(recipe.weights, Cast) and recipe.rest in SHORT_FLOATS:
        return GraphPlan(model, (), {})
    if isinstance(recipe.weights, Cast):
        cast = tuple(CastSite(site, recipe.weights.format) for site in active)
        return GraphPlan(model, cast, _tables(model, recipe, cast, {}))
    scales = chosen_smoothing_scales({site.name: choices[site.name] for site in active})
    folded, done = fold(model, active, scales) if folding else (model, frozenset[str]())
    schemes = schemes_by_site(recipe, sites)
    if recipe.raised is not None:
        schemes |= dict.fromkeys(raised, recipe.raised.weights)
    planned = tuple(
        _planned(
            folded,
            _Work(
                site,
                sample(site, observed[site.name]),
                schemes[site.name],
                choices[site.name],
                folded=site.name in done,
                trained=site.name in trained,
                blocks=block_quantizer(observed[site.name], recipe),
            ),
            recipe,
        )
        for site in active
    )
    tables = _tables(folded, recipe, planned, _in_own_units(planned, choices))
    return GraphPlan(
        folded,
        planned,
        tables,
        int8_products=recipe.int8_products,
        recurrent=find_recurrent(folded) if recipe.takes_recurrent else (),
        recurrent_in_integers=recipe.activation is not None,
    )


def layer_scheme(scheme: WeightScheme, weight: NDArray[np.float32]) -> WeightScheme:
    """Return the scheme, or what comes next to it where a layer cannot have it.

    Convolutions have neither blocks nor fewer than 8 bits, and floats in blocks are two whole
    blocks at least.
    """
    blocks = scheme.granularity.size if isinstance(scheme.granularity, PerBlock) else 0
    narrow = blocks or scheme.format in (NumberFormat.INT4, NumberFormat.INT2)
    broken = scheme.scales is not ScaleFormat.FP32 and (
        weight.shape[1] % blocks or weight.shape[1] <= blocks
    )
    if broken or (narrow and weight.ndim > 2):
        return replace(
            scheme,
            format=NumberFormat.INT8,
            granularity=PerChannel(),
            scales=ScaleFormat.FP32,
        )
    return scheme


@dataclass(frozen=True, slots=True)
class Table:
    """An embedding table: a float constant of two axes that Gather nodes read by row."""

    name: str  # initializer
    axis: int  # of its rows: 1 where a product multiplies by the same matrix
    products: tuple[str, ...]  # nodes that do


def find_tables(model: onnx.ModelProto) -> tuple[Table, ...]:
    """Return embedding tables, those that output layers multiply by included."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    tables = (
        _table(item.name, readers.get(item.name, []))
        for item in model.graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT
        and len(item.dims) == 2
        and int(np.prod(item.dims)) >= SMALLEST_TABLE
    )
    return tuple(table for table in tables if table is not None)


def table_rows(model: onnx.ModelProto, table: Table) -> NDArray[np.float32]:
    """Return a table's numbers as [rows, width]."""
    item = next(item for item in model.graph.initializer if item.name == table.name)
    return np.moveaxis(constant_values(item), table.axis, 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What is to be done at one site."""

    site: Site
    kept: NDArray[np.float32]  # what was kept of its channels, [n, channels]
    scheme: WeightScheme
    choice: SiteQuantizer
    folded: bool = False
    trained: bool = False
    blocks: BlockQuantizer | None = None  # of the activation, where weights are in blocks too


def _planned(model: onnx.ModelProto, work: _Work, recipe: Recipe) -> QuantizedSite:
    site, kept, choice = work.site, work.kept, work.choice
    weights = [layer_weight(model, layer) for layer in site.layers]
    if choice.smoothing_scales is not None:
        weights = [multiplied(weight, choice.smoothing_scales) for weight in weights]
        kept = kept / choice.smoothing_scales if kept.size else kept
    rows = kept if site.channel_axis == -1 else NO_ROWS  # a convolution's pixels are not its inputs
    scheme, activation = layer_scheme(work.scheme, weights[0]), choice.activation
    blocks = None if scheme.scales is ScaleFormat.FP32 else work.blocks
    read = rows if blocks is None or not rows.size else fake_quantize_blocks(rows, blocks)
    rounded = round_weights(weights, read, scheme, recipe.rounding)
    if work.trained:
        rounded, activation = train_site(weights, rows, rounded, activation)
    rounded = _with_room_for_biases(model, site, rounded, activation)
    corrected = None
    if recipe.bias_correction:
        corrected = corrections(weights, kept, rounded, activation)
    elif recipe.corrects_means:
        corrected = corrections_of_means(weights, rows, rounded, activation)
    unfolded = None if work.folded else choice.smoothing_scales
    dynamic = isinstance(recipe.activation, Dynamic)
    per_token = isinstance(recipe.activation, PerToken)
    return QuantizedSite(site, rounded, activation, dynamic, per_token, unfolded, corrected, blocks)


def _with_room_for_biases(
    model: onnx.ModelProto,
    site: Site,
    rounded: tuple[QuantizedWeight, ...],
    activation: Quantizer | None,
) -> tuple[QuantizedWeight, ...]:
    """Raise the scales of convolutions, whose biases become INT32 on ONNX Runtime."""
    names = {layer.node for layer in site.layers if layer.op == "Conv"}
    biases = {
        node.name: node.input[2]
        for node in model.graph.node
        if node.name in names and len(node.input) > 2
    }
    constants = {
        item.name: constant_values(item)
        for item in model.graph.initializer
        if item.name in biases.values()
    }
    return tuple(
        with_room_for(constants.get(biases.get(layer.node, "")), weight, activation)
        for layer, weight in zip(site.layers, rounded, strict=True)
    )


def _tables(
    model: onnx.ModelProto,
    recipe: Recipe,
    planned: Sequence[QuantizedSite | CastSite],
    stored: Mapping[str, Layer],
) -> dict[str, QuantizedWeight | NumberFormat | Layer]:
    """Return what becomes of each table, of those that are `stored` for a layer their layers.

    One that a product reads in float32 stays in it: a second copy would only be more bytes.
    """
    if recipe.tables is NumberFormat.FP32:
        return {}
    taken = {layer.node for item in planned for layer in item.site.layers}
    tables = [table for table in find_tables(model) if taken.issuperset(table.products)]
    if recipe.tables in SHORT_FLOATS:
        constants = {item.name: item for item in model.graph.initializer}
        names = [table.name for table in tables]
        return {name: recipe.tables for name in names if holds(recipe.tables, constants[name])}
    scheme = WeightScheme(recipe.tables)
    return {
        table.name: stored.get(table.name) or quantize(table_rows(model, table), scheme)
        for table in tables
    }


def _in_own_units(
    planned: Sequence[QuantizedSite], choices: Mapping[str, SiteQuantizer]
) -> dict[str, Layer]:
    """Return weights that their layers store in INT8 as a table would be, a scale an output.

    Nothing smoothed them, so that what is restored is the weight itself.
    """
    return {
        layer.weight: layer
        for item in planned
        if choices[item.site.name].smoothing_scales is None
        for layer, weight in zip(item.site.layers, item.weights, strict=True)
        if weight.format is NumberFormat.INT8
        and weight.block is None
        and weight.zero_points is None
        and weight.scales.size == len(weight.values)
    }


def _table(name: str, readers: Sequence[onnx.NodeProto]) -> Table | None:
    """Return the table that a constant is by its readers; None where it is none."""
    gathers = [node for node in readers if node.op_type == "Gather" and node.input[0] == name]
    axes = {next((item.i for item in node.attribute if item.name == "axis"), 0) for node in gathers}
    products = tuple(
        node.name for node in readers if node.op_type == "MatMul" and node.input[1] == name
    )
    if len(gathers) + len(products) < len(readers) or axes not in ({0}, {1}):
        return None
    (axis,) = axes
    return Table(name, axis, products) if axis == 1 or not products else None
