"""Graphs in FP16 or BF16, read in float32: the reference of everything is full precision."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from infra.weights.naming import is_beside
from tasks.graphs.canonical.editing import all_nodes, bodies
from tasks.graphs.weights import constant_values, inside, large_beside

HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPED = frozenset({"to", "dtype"})
"""Attributes that name a type of elements."""


def is_half(model: onnx.ModelProto) -> bool:
    """Return whether any weight, input or cast is in FP16 or BF16."""
    graph = model.graph
    if any(item.data_type in HALF for item in graph.initializer):
        return True
    values = (*graph.input, *graph.output)
    return any(value.type.tensor_type.elem_type in HALF for value in values) or any(
        item.name in _TYPED and item.i in HALF
        for node in all_nodes(graph)
        for item in node.attribute
    )


def widen(model: onnx.ModelProto) -> None:
    """Turn every FP16 and BF16 weight, input, output and cast into float32.

    Each number is kept exactly: float32 holds both formats.
    """
    if not is_half(model):
        return
    _widen_graph(model.graph)


def _widen_graph(graph: onnx.GraphProto) -> None:
    for item in graph.initializer:
        _widen_tensor(item)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in HALF:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for body in bodies(node):
            _widen_graph(body)
        for attribute in node.attribute:
            if attribute.name in _TYPED and attribute.i in HALF:
                attribute.i = TensorProto.FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)


def _widen_tensor(item: TensorProto) -> None:
    if item.data_type in HALF:
        values = constant_values(item).astype(np.float32)
        constant = large_beside if is_beside(item) else inside
        item.CopyFrom(constant(values, item.name))
