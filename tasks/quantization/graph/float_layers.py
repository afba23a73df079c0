"""Which convolutions stay in floating point, in the form that ONNX Runtime computes fastest.

Weights that are stored in INT8 and meet floats are restored once, when the runtime loads the graph:
it computes a DequantizeLinear at every call where no product takes it in. A convolution has the
runtime's fast layout only where its weight is a constant, and HardSwish is fused into it only where
it is written by HardSigmoid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tasks.graphs.integer_regions import mark_floats, marked_floats
from tasks.graphs.weights import constant_values, constants_like, inside

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LAYERS = (*_CONVOLUTIONS, "Gemm", "MatMul")
_PULLED = (*_CONVOLUTIONS, "Gemm")
"""Layers whose float weights ONNX Runtime quantizes where it finds quantizers around them."""
_FLOAT, _FP8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT8E4M3FN
_HARD_SWISH = (3.0, 0.0, 6.0, 6.0)
"""x · min(max(x + 3, 0), 6) / 6: Howard et al., "Searching for MobileNetV3" (2019), section 5.2."""


def plain_floats(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its float convolutions' weights restored, and HardSwish fused."""
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    _restore_weights(copy.graph, marked_floats(qdq))
    _part_from_quantizers(copy.graph)
    _fuse_hard_swish(copy.graph)
    return mark_floats(copy)


def restored_once(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with what restores weights that meet floats written as products.

    These are convolutions' that read floats, and all FP8, which the CPU multiplies as floats.

    ONNX Runtime folds Cast, Sub and Mul of constants when it loads a graph, and DequantizeLinear
    never: that is for its quantizers to find. The file keeps its INT8 weights.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    graph = copy.graph
    constants = {item.name: item for item in graph.initializer}
    restoring = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    weights = {
        name
        for name, maker in restoring.items()
        if set(maker.input) <= set(constants)
        and all(
            node.op_type in _LAYERS
            if constants[maker.input[0]].data_type == _FP8
            else _meets_floats(node, restoring)
            for node in readers.get(name, [])
        )
    }
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        restored = node.output and node.output[0] in weights
        nodes += _products(graph, node, constants) if restored else [node]
    _keep(graph, nodes)
    read = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in read or item.name not in constants]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return copy


def _meets_floats(node: onnx.NodeProto, restored: Collection[str]) -> bool:
    """Return whether a node reads a stored weight beside floats, and no kernel takes it so.

    Behind a Reshape it is an LSTM's (`tasks.quantization.graph.recurrent`).
    """
    if node.op_type in _CONVOLUTIONS:
        return node.input[0] not in restored
    return bool(node.op_type == "Reshape" and node.output[0].endswith(".weight.shaped"))


def _products(
    graph: onnx.GraphProto, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """Write (levels - zero-point) * scale with operators that are folded."""
    levels, scale, *rest = (constants[name] for name in node.input)
    axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
    shape = [-1 if place == axis else 1 for place in range(len(levels.dims))]
    along = shape if len(scale.dims) else []
    units, result = f"{node.output[0]}.units", node.output[0]
    nodes = [helper.make_node("Cast", [levels.name], [units], f"{node.name}.units", to=_FLOAT)]
    zero_points = [constant_values(item).astype(np.float32) for item in rest]
    parts = [("Sub", value) for value in zero_points if value.any()]
    parts.append(("Mul", constant_values(scale)))
    for op, values in parts:
        made = result if op == "Mul" else f"{units}.shifted"
        name = f"{node.name}.{op}"
        graph.initializer.append(inside(values.reshape(along), f"{name}.by"))
        nodes.append(helper.make_node(op, [units, f"{name}.by"], [made], name))
        units = made
    return nodes


def _restore_weights(graph: onnx.GraphProto, floats: Collection[str]) -> None:
    """Store the weights of these convolutions as what their DequantizeLinear makes."""
    constants, constant = {item.name: item for item in graph.initializer}, constants_like(graph)
    restoring = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    weights: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.name in floats:
            maker = restoring.get(node.input[1])
            if maker is not None and maker.input[0] in constants:
                weights[maker.output[0]] = maker
    for name, maker in weights.items():
        levels, scales = (constant_values(constants[part]) for part in maker.input[:2])
        shape = (-1, *[1] * (levels.ndim - 1)) if scales.ndim else ()
        values = levels.astype(np.float32) * scales.reshape(shape)
        graph.initializer.append(constant(values.astype(np.float32), name))
    _keep(graph, [node for node in graph.node if node.output[0] not in weights])
    stored = {part for maker in weights.values() for part in maker.input}
    kept = [item for item in graph.initializer if item.name not in stored]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _part_from_quantizers(graph: onnx.GraphProto) -> None:
    """Put a Sum of one between layers in floats and a quantizer of what they make.

    ONNX Runtime 1.32 quantizes the constant weight of a layer between a DequantizeLinear and a
    QuantizeLinear itself, with one scale for all channels, and computes it in INT8 after all.
    """
    restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    constants = {item.name for item in graph.initializer if item.data_type == _FLOAT}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type not in _PULLED or node.input[0] not in restored:
            continue
        result = node.output[0]
        if node.input[1] in constants and result in quantized:
            node.output[0] = f"{result}.float"
            nodes.append(helper.make_node("Sum", [node.output[0]], [result], f"{node.name}.float"))
    if len(nodes) > len(graph.node):
        _keep(graph, nodes)


def _fuse_hard_swish(graph: onnx.GraphProto) -> None:
    """Write Add, Clip, Mul and Div as HardSigmoid and Mul, wherever nobody else reads between."""
    scalars = {
        item.name: constant_values(item)
        for item in graph.initializer
        if int(np.prod(item.dims)) == 1 and item.data_type == onnx.TensorProto.FLOAT
    }
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {item.name: 2 for item in graph.output}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    superseded: set[str] = set()
    for last in [node for node in graph.node if node.op_type == "Div"]:
        chain = _hard_swish(last, makers, scalars)
        if chain is None or any(readers[node.output[0]] != 1 for node in chain[:3]):
            continue
        add, clip, product = chain[:3]
        source = next(name for name in product.input if name != clip.output[0])
        gate, result = clip.output[0], last.output[0]
        add.CopyFrom(
            helper.make_node("HardSigmoid", [source], [gate], add.name, alpha=1 / 6, beta=0.5)
        )
        product.CopyFrom(helper.make_node("Mul", [source, gate], [result], product.name))
        superseded |= {clip.name, last.name}
    _keep(graph, [node for node in graph.node if node.name not in superseded])


def _hard_swish(
    last: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    scalars: dict[str, NDArray[np.generic]],
) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto, onnx.NodeProto] | None:
    """Return the four nodes that end in this division, where they are a HardSwish."""
    product = makers.get(last.input[0])
    if product is None or product.op_type != "Mul":
        return None
    for gate, source in (product.input, product.input[::-1]):
        clip = makers.get(gate)
        if clip is None or clip.op_type != "Clip" or len(clip.input) != 3:
            continue
        add = makers.get(clip.input[0])
        if add is None or add.op_type != "Add" or source not in add.input:
            continue
        three = next((name for name in add.input if name != source), "")
        names = (three, *clip.input[1:], last.input[1])
        if all(
            name in scalars and float(scalars[name].reshape(())) == wanted
            for name, wanted in zip(names, _HARD_SWISH, strict=True)
        ):
            return add, clip, product, last
    return None


def _keep(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
