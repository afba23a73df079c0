"""Biases of layers for the one target that computes whole regions in integers.

What rounding adds there on the mean differs from what it adds where results stay in floats. So a
layer has a second bias in the canonical graph, which nobody reads before a lowering puts it in
place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tasks.graphs.weights import constant_values

SUFFIX = ".integer_bias"
CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, slots=True, eq=False)
class BiasPlace:
    """Where a layer takes its bias."""

    layer: str  # node
    holder: str  # the node that adds the bias: the layer, or an Add that alone reads it
    place: int  # among the holder's inputs
    result: str  # the tensor with the bias in it
    axis: int  # of `result`, along which the channels lie
    bias: NDArray[np.float32] | None  # [outputs]; None: there is none


def bias_places(graph: onnx.GraphProto, layers: Collection[str]) -> tuple[BiasPlace, ...]:
    """Return where these nodes take a bias, in graph order; a product without one has no place."""
    constants = {
        item.name: item
        for item in graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT and len(item.dims) == 1
    }
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    places = []
    for node in graph.node:
        if node.name not in layers:
            continue
        holder, place = _holder(node, readers, constants)
        if holder is None:
            continue
        name = holder.input[place] if place < len(holder.input) else ""
        bias = constant_values(constants[name]).astype(np.float32) if name else None
        axis = 1 if node.op_type in CONVOLUTIONS else -1
        places.append(BiasPlace(node.name, holder.name, place, holder.output[0], axis, bias))
    return tuple(places)


def with_integer_biases(
    qdq: onnx.ModelProto, biases: Mapping[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    """Return the canonical graph with these biases, node -> [outputs], and no older ones."""
    copy = without_integer_biases(qdq)
    copy.graph.initializer.extend(
        numpy_helper.from_array(bias.astype(np.float32), f"{node}{SUFFIX}")
        for node, bias in biases.items()
    )
    return copy


def without_integer_biases(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph for a target that leaves results in floats."""
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    kept = [item for item in copy.graph.initializer if not item.name.endswith(SUFFIX)]
    if len(kept) < len(copy.graph.initializer):
        del copy.graph.initializer[:]
        copy.graph.initializer.extend(kept)
    return copy


def used_integer_biases(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in which layers read the biases that were stored for this target."""
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    stored = {item.name for item in copy.graph.initializer if item.name.endswith(SUFFIX)}
    if not stored:
        return copy
    nodes = {node.name: node for node in copy.graph.node}
    for place in bias_places(copy.graph, {name.removesuffix(SUFFIX) for name in stored}):
        put_bias(nodes[place.holder], place.place, f"{place.layer}{SUFFIX}")
    return copy


def put_bias(holder: onnx.NodeProto, place: int, bias: str) -> None:
    """Let a node read this bias, in the place of another or behind its other inputs."""
    if place < len(holder.input):
        holder.input[place] = bias
    else:
        holder.input.append(bias)


def _holder(
    node: onnx.NodeProto,
    readers: Mapping[str, list[onnx.NodeProto]],
    constants: Collection[str],
) -> tuple[onnx.NodeProto | None, int]:
    """Return the node that adds a layer's bias, and the bias's place; None where none can.

    A lowering takes the bias out of a Gemm, and adds it behind.
    """
    if node.op_type in (*CONVOLUTIONS, "Gemm") and len(node.input) > 2 and node.input[2]:
        return (node, 2) if node.input[2] in constants else (None, 0)
    behind = readers.get(node.output[0], [])
    if node.op_type not in CONVOLUTIONS and len(behind) == 1 and behind[0].op_type == "Add":
        place = 1 - list(behind[0].input).index(node.output[0])
        if behind[0].input[place] in constants:
            return behind[0], place
    return (None, 0) if node.op_type == "MatMul" else (node, 2)
