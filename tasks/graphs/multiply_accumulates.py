"""How many multiply-accumulates the layers of a graph take on inputs of given shapes."""

from collections.abc import Mapping, Sequence
from math import prod

import onnx

from tasks.graphs.canonical.editing import bodies
from tasks.graphs.sites import Site
from tasks.graphs.weightless import weightless

RECURRENT = ("LSTM", "GRU", "RNN")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", *RECURRENT, "Einsum")
"""Operators that multiply by weights."""


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


def products_beside(
    model: onnx.ModelProto, sites: Sequence[Site], shapes: Mapping[str, Sequence[int]]
) -> dict[str, int | None]:
    """Return node -> multiply-accumulates with weights of what is no layer of a site.

    It is None where they cannot be counted, as inside a loop that has weights.

    Args:
        model: The full-precision graph.
        sites: Its layers.
        shapes: Input name -> shape.
    """
    layers = {layer.node for site in sites for layer in site.layers}
    elements = tensor_elements(model, shapes) | {
        name: prod(shape) for name, shape in shapes.items()
    }
    widths = {item.name: tuple(item.dims) for item in model.graph.initializer}
    counts: dict[str, int | None] = {}
    for node in model.graph.node:
        if node.name in layers:
            continue
        if any(_stores_weights(body) for body in bodies(node)):
            counts[node.name] = None
        elif node.op_type in PRODUCTS and (count := _count(node, widths, elements)) != 0:
            counts[node.name] = count
    return counts


def _stores_weights(body: onnx.GraphProto) -> bool:
    own = any(len(item.dims) > 1 and item.data_type in _FLOATS for item in body.initializer)
    return own or any(_stores_weights(inner) for node in body.node for inner in bodies(node))


def _count(
    node: onnx.NodeProto, widths: Mapping[str, tuple[int, ...]], elements: Mapping[str, int]
) -> int | None:
    """Return the multiply-accumulates of a node that is no layer; 0 without a weight."""
    weight = next((widths[name] for name in node.input if name in widths), None)
    if weight is None or sum(size > 1 for size in weight) < 2:
        return 0
    if node.op_type in RECURRENT and elements.get(node.input[0]):
        recurrent = widths.get(node.input[2], ())  # [directions, gates, state]
        steps = elements[node.input[0]] // weight[-1]  # of all sequences
        return (prod(weight) + prod(recurrent)) * steps if recurrent else None
    if node.op_type == "ConvTranspose" and elements.get(node.input[0]):
        return prod(weight) * elements[node.input[0]] // weight[0]
    if node.op_type == "MatMul" and elements.get(node.output[0]):
        return elements[node.output[0]] * weight[-2]
    return None
