"""The fewest bytes that a recipe can leave of a graph's weights, known before anything is built."""

from collections.abc import Sequence
from math import prod

import onnx

from infra.canonical import sha256
from infra.weights.naming import is_beside, weight_file
from tasks.graphs.sites import Site
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.submodules import schemes_by_site

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def least_bytes(model: onnx.ModelProto, sites: Sequence[Site], recipe: Recipe) -> int:
    """Return a lower bound on the bytes of an engine: its weights alone, without scales.

    Args:
        model: The full-precision graph.
        sites: Where it can be quantized.
        recipe: What is to be done, every site counted as quantized.
    """
    schemes = schemes_by_site(recipe, tuple(sites))
    bits = {
        layer.weight: (schemes.get(site.name) or recipe.weights).format.bits
        for site in sites
        for layer in site.layers
        if recipe.quantized
    }
    tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    total, counted = 0, set[str]()
    for item in model.graph.initializer:
        content = weight_file(item) if is_beside(item) else sha256(item.raw_data)
        if item.data_type not in _FLOATS or (content in counted and not item.float_data):
            continue
        counted.add(content)  # equal weights may be stored once
        # What is a layer's weight and a table is stored as both, once where these are alike.
        of_layer, of_table = (
            bits.get(item.name),
            recipe.tables.bits if item.name in tables else None,
        )
        widths = {width for width in (of_layer, of_table) if width} or {recipe.rest.bits}
        stored = sum({min(width, recipe.rest.bits) for width in widths})
        total += prod(item.dims) * stored // 8
    return total
