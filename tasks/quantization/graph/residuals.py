"""The form of additions that TensorRT takes into a convolution's kernel: one branch in INT8."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tasks.graphs.residual_branches import residual_branches
from tasks.graphs.weights import constant_values

_LEVELS = 127
_DIVISIBLE = 2.0**-14
"""A smaller step has no reciprocal in FP16, and is of a tensor that is next to zero."""


def quantized_branches(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with quantizers on residual branches, always with zero-point 0.

    A branch that a layer reads too shares that layer's quantizer. Any other gets the symmetric form
    of the one that stands beside its tensor (`tasks.graphs.integer_regions`); without one it stays
    in floating point, as no range is guessed.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    graph = copy.graph
    branches = residual_branches(graph)
    if not branches:
        return copy
    quantizers = _quantizers(graph)
    restored = {node.input[0]: node.output[0] for node in graph.node if _restores(node)}
    values = {item.name: constant_values(item) for item in _scalars(graph)}
    nodes = {node.name: node for node in graph.node}
    added: dict[str, list[onnx.NodeProto]] = {}
    for branch in branches:
        for quantizer in quantizers.get(branch.tensor, ()):
            if quantizer.output[0] in restored:
                nodes[branch.addition].input[branch.place] = restored[quantizer.output[0]]
                break
            if quantizer.input[1] in values:
                made, constants = _symmetric(quantizer, branch.tensor, values)
                restored[quantizer.output[0]] = made[-1].output[0]
                graph.initializer.extend(constants)
                added[quantizer.name] = made
                nodes[branch.addition].input[branch.place] = made[-1].output[0]
                break
    ordered = [item for node in graph.node for item in (node, *added.get(node.name, ()))]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(kept)
    return copy


def _quantizers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return tensor -> its quantizers, those of sites first."""
    quantizers: dict[str, list[onnx.NodeProto]] = {}
    read = {name for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            quantizers.setdefault(node.input[0], []).append(node)
    return {
        name: sorted(items, key=lambda node: node.output[0] not in read)
        for name, items in quantizers.items()
    }


def _restores(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "DequantizeLinear")


def _scalars(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    return [item for item in graph.initializer if int(np.prod(item.dims)) == 1]


def _symmetric(
    quantizer: onnx.NodeProto, tensor: str, values: Mapping[str, NDArray[np.generic]]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return Q and DQ of a tensor, from the quantizer with a zero-point that stands beside it."""
    scale = values[quantizer.input[1]].reshape(())
    zero = int(values[quantizer.input[2]].reshape(()))
    low, high = (-128 - zero) * float(scale), (127 - zero) * float(scale)
    step = np.maximum(max(abs(low), abs(high)) / _LEVELS, _DIVISIBLE).astype(scale.dtype)
    name = f"{tensor}.branch"
    inputs = [f"{name}.scale", f"{name}.zero_point"]
    nodes = [
        helper.make_node(
            "QuantizeLinear", [tensor, *inputs], [f"{name}.quantized"], f"{name}.quantize"
        ),
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.quantized", *inputs],
            [f"{name}.dequantized"],
            f"{name}.dequantize",
        ),
    ]
    constants = [
        numpy_helper.from_array(step, inputs[0]),
        numpy_helper.from_array(np.zeros((), np.int8), inputs[1]),
    ]
    return nodes, constants
