"""How many multiply-accumulates the layers of a graph take on inputs of given shapes."""

from collections.abc import Mapping, Sequence
from math import prod

import onnx

from tasks.graphs.sites import Site
from tasks.graphs.weightless import weightless


def layer_products(
    model: onnx.ModelProto, sites: Sequence[Site], shapes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """Return node -> multiply-accumulates of every layer whose output's shape follows.

    A layer's are its weights times the positions of its output: all its elements but the channels.

    Args:
        model: The full-precision graph.
        sites: Its layers.
        shapes: Input name -> shape.
    """
    known = tensor_elements(model, shapes)
    sizes = {item.name: prod(item.dims) for item in model.graph.initializer}
    widths = {item.name: tuple(item.dims) for item in model.graph.initializer}
    outputs = {node.name: node.output[0] for node in model.graph.node}
    products = {}
    for layer in (layer for site in sites for layer in site.layers):
        elements = known.get(outputs.get(layer.node, ""), 0)
        channels = widths[layer.weight][layer.output_axis]
        if elements:
            products[layer.node] = sizes[layer.weight] * elements // channels
    return products


def tensor_elements(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return tensor -> number of elements, where every dimension follows from the inputs'."""
    copy = weightless(model)
    for item in copy.graph.input:
        if item.name in shapes:
            dims = item.type.tensor_type.shape.dim
            for dim, size in zip(dims, shapes[item.name], strict=False):
                dim.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    return {
        item.name: prod(dim.dim_value for dim in item.type.tensor_type.shape.dim)
        for item in (*inferred.value_info, *inferred.output)
        if item.type.tensor_type.HasField("shape")
    }
