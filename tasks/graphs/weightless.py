"""A graph without the values of its weights: shape inference copies its graph several times."""

from __future__ import annotations

from math import prod

import onnx

SMALL = 1024
"""Numbers of constants that stay: shapes, axes and scales, from which other shapes follow."""


def weightless(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of the same nodes, whose large constants are inputs of the same shapes.

    What the given one says of shapes inside it is left out.
    """
    light = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    light.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    inputs = {item.name for item in model.graph.input}
    for item in model.graph.initializer:
        if prod(item.dims) <= SMALL:
            light.graph.initializer.append(item)
        elif item.name not in inputs:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(item.name, item.data_type, list(item.dims))
            )
    return light
