"""LSTMs in INT8: weights stored by channel, and products in integers where a target has them.

ONNX Runtime's CPU provider has one kernel for it, DynamicQuantizeLSTM, whose activations get their
ranges at run time. It has none for GRUs, and TensorRT none for either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tasks.graphs.weights import constant_values, constants_like
from tasks.numerics.quantized_weight import WeightScheme, quantize

SMALLEST = 1 << 16
"""Weights; smaller ones take longer in INT8 than in floats."""
_MARK = "requant.recurrent"
_PARTS = {1: "input", 2: "state"}
"""Place among the inputs -> what its weight multiplies."""
_INPUTS = 8
"""Of an LSTM; scales and zero-points come behind them."""
_OWN = "com.microsoft"


def find_recurrent(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the LSTM nodes that can be stored and multiplied in INT8, in graph order.

    Their weights are constants that nobody else reads, [directions, 4 * state, inputs], and they
    are large enough to gain.
    """
    constants = {item.name: item for item in model.graph.initializer}
    reads = [name for node in model.graph.node for name in node.input]
    return tuple(node.name for node in model.graph.node if _is_taken(node, constants, reads))


def _is_taken(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], reads: Sequence[str]
) -> bool:
    if node.op_type != "LSTM" or len(node.input) < 3 or not node.name:
        return False
    batch_first = any(item.name == "layout" and item.i for item in node.attribute)
    weights = [constants.get(node.input[place]) for place in _PARTS]
    floats = all(item is not None and item.data_type == TensorProto.FLOAT for item in weights)
    if batch_first or not floats or any(reads.count(node.input[place]) != 1 for place in _PARTS):
        return False
    stored = [item for item in weights if item is not None]
    if sum(prod(item.dims) for item in stored) < SMALLEST:
        return False
    return all(_is_finite(constant_values(item)) for item in stored)


def _is_finite(values: NDArray[np.generic]) -> bool:
    return bool(np.isfinite(np.asarray(values, np.float32)).all())


def quantize_recurrent(
    model: onnx.ModelProto, names: Sequence[str], *, in_integers: bool
) -> onnx.ModelProto:
    """Store the weights of these LSTMs in INT8, one scale a row, behind a DequantizeLinear.

    Changes the model and returns it. `in_integers` notes that a target may multiply them so.
    """
    if not names:
        return model
    constants = {item.name: item for item in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name in names:
            for place in _PARTS:
                weight = constant_values(constants[node.input[place]])
                model.graph.initializer.remove(constants[node.input[place]])
                nodes += _restored(model.graph, node, place, weight)
        nodes.append(node)
    _replace(model.graph, nodes)
    if in_integers:
        model.metadata_props.add(key=_MARK, value=json.dumps(sorted(names)))
    return model


def marked_recurrent(qdq: onnx.ModelProto) -> frozenset[str]:
    """Return the LSTMs that a graph asks to be multiplied in INT8, where a target can."""
    notes = [item.value for item in qdq.metadata_props if item.key == _MARK]
    return frozenset(json.loads(notes[0])) if notes else frozenset()


def _restored(
    graph: onnx.GraphProto, node: onnx.NodeProto, place: int, weight: NDArray[np.generic]
) -> list[onnx.NodeProto]:
    """Store [directions, rows, inputs] as rows; return what restores it, in its own shape."""
    name = f"{node.name}.{_PARTS[place]}.weight"
    rows = np.asarray(weight, np.float32).reshape(-1, weight.shape[-1])
    rounded, constant = quantize(rows, WeightScheme()), constants_like(graph)
    parts: dict[str, NDArray[np.generic]] = {
        f"{name}.quantized": rounded.values.astype(np.int8).reshape(rows.shape),
        f"{name}.scale": rounded.scales.reshape(-1),
        f"{name}.zero_point": np.zeros(len(rows), np.int8),
    }
    for part, values in {**parts, f"{name}.shape": np.asarray(weight.shape, np.int64)}.items():
        graph.initializer.append(constant(values, part))
    node.input[place] = f"{name}.shaped"
    return [
        helper.make_node(
            "DequantizeLinear", list(parts), [f"{name}.dequantized"], f"{name}.dequantize", axis=0
        ),
        helper.make_node(
            "Reshape",
            [f"{name}.dequantized", f"{name}.shape"],
            [f"{name}.shaped"],
            f"{name}.shaper",
        ),
    ]


def recurrent_in_integers(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its marked LSTMs as ONNX Runtime's kernel takes them."""
    marked = marked_recurrent(qdq)
    if not marked:
        return qdq
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    superseded: set[str] = set()
    for node in copy.graph.node:
        if node.name in marked:
            superseded |= _as_kernel(copy.graph, node)
    _replace(copy.graph, [node for node in copy.graph.node if node.name not in superseded])
    if all(item.domain != _OWN for item in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid(_OWN, 1))
    return copy


def _as_kernel(graph: onnx.GraphProto, node: onnx.NodeProto) -> set[str]:
    """Turn an LSTM into the kernel; return the nodes that nothing reads any more."""
    constants, constant = {item.name: item for item in graph.initializer}, constants_like(graph)
    node.op_type, node.domain = "DynamicQuantizeLSTM", _OWN
    kept = [item for item in node.attribute if item.name != "layout"]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.input.extend([""] * (_INPUTS - len(node.input)))
    superseded = set()
    for place, part in _PARTS.items():
        name = f"{node.name}.{part}.weight"
        shape = constant_values(constants[f"{name}.shape"]).tolist()
        rows = constant_values(constants[f"{name}.quantized"]).reshape(shape)
        turned = rows.transpose(0, 2, 1)  # the kernel wants columns
        constants[f"{name}.quantized"].CopyFrom(constant(turned, f"{name}.quantized"))
        for item in (f"{name}.scale", f"{name}.zero_point"):
            by_direction = constant_values(constants[item]).reshape(shape[:2])
            constants[item].CopyFrom(constant(by_direction, item))
            node.input.append(item)
        node.input[place] = f"{name}.quantized"
        graph.initializer.remove(constants[f"{name}.shape"])
        superseded |= {f"{name}.dequantize", f"{name}.shaper"}
    return superseded


def recurrent_in_floats(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with what restores its LSTMs' weights computed.

    TensorRT takes constants alone there.
    """
    names = {node.name for node in qdq.graph.node if node.op_type == "LSTM" and _is_stored(node)}
    if not names:
        return qdq
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    constants = {item.name: item for item in copy.graph.initializer}
    constant = constants_like(copy.graph)
    superseded: set[str] = set()
    for name in (f"{node}.{part}.weight" for node in names for part in _PARTS.values()):
        levels, scales, shape = (
            constant_values(constants[f"{name}.{part}"]) for part in ("quantized", "scale", "shape")
        )
        weight = (levels.astype(np.float32) * scales[:, None]).reshape(shape)
        for part in ("quantized", "scale", "zero_point", "shape"):
            copy.graph.initializer.remove(constants[f"{name}.{part}"])
        copy.graph.initializer.append(constant(weight, f"{name}.shaped"))
        superseded |= {f"{name}.dequantize", f"{name}.shaper"}
    _replace(copy.graph, [node for node in copy.graph.node if node.name not in superseded])
    return copy


def _is_stored(node: onnx.NodeProto) -> bool:
    return bool(node.input[1] == f"{node.name}.input.weight.shaped")


def _replace(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
