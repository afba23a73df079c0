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
from onnx import helper

from infra.weights.naming import is_beside
from tasks.graphs.integer_regions import mark_floats, marked_floats
from tasks.graphs.weights import constant_values, constants_like, inside, large_beside

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LAYERS = (*_CONVOLUTIONS, "Gemm", "MatMul")
_PULLED = (*_CONVOLUTIONS, "Gemm")
"""Layers whose float weights ONNX Runtime quantizes where it finds quantizers around them."""
_FLOAT, _FP8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT8E4M3FN
_SIX = 6.0
_HARD_SWISH = (3.0, 0.0, _SIX)
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
    options = {item.name: item.i for item in node.attribute}
    if options.get("block_size"):
        return _products_of_blocks(graph, node, levels, scale, options)
    axis = options.get("axis", 1)
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


def _products_of_blocks(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    levels: onnx.TensorProto,
    scale: onnx.TensorProto,
    options: Mapping[str, int],
) -> list[onnx.NodeProto]:
    """Write levels * scale with one scale for each block of an axis."""
    axis, size, result, name = options["axis"], options["block_size"], node.output[0], node.name
    whole, blocks, kind = list(levels.dims), list(scale.dims), scale.data_type
    shapes = {
        "parted": [*whole[:axis], blocks[axis], size, *whole[axis + 1 :]],
        "shaped": whole,
    }
    beside = [*blocks[: axis + 1], 1, *blocks[axis + 1 :]]
    for part, shape in shapes.items():
        graph.initializer.append(inside(np.asarray(shape, np.int64), f"{result}.{part}.shape"))
    graph.initializer.append(
        constants_like(graph)(constant_values(scale).reshape(beside), f"{name}.Mul.by")
    )
    units, parted, product = f"{result}.units", f"{result}.parted", f"{result}.product"
    return [
        helper.make_node("Cast", [levels.name], [units], f"{name}.units", to=kind),
        helper.make_node("Reshape", [units, f"{parted}.shape"], [parted], f"{name}.parted"),
        helper.make_node("Mul", [parted, f"{name}.Mul.by"], [product], f"{name}.Mul"),
        helper.make_node(
            "Reshape", [product, f"{result}.shaped.shape"], [result], f"{name}.shaped"
        ),
    ]


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
    """Write a HardSwish's arithmetic as HardSigmoid and Mul, wherever nobody else reads between.

    Where its division by 6 lies in the weights behind it, they are multiplied by 6 again.
    """
    chains = _HardSwishes(graph)
    superseded: set[str] = set()
    for product in [node for node in graph.node if node.op_type == "Mul"]:
        chain = chains.ending_in(product)
        if chain is None:
            continue
        add, clip, source, last = chain
        if last is product and not chains.multiply_readers(product.output[0]):
            continue
        gate, result = clip.output[0], last.output[0]
        add.CopyFrom(
            helper.make_node("HardSigmoid", [source], [gate], add.name, alpha=1 / 6, beta=0.5)
        )
        product.CopyFrom(helper.make_node("Mul", [source, gate], [result], product.name))
        superseded |= {clip.name} | ({last.name} if last is not product else set())
    _keep(graph, [node for node in graph.node if node.name not in superseded])


class _HardSwishes:
    """Finds x * min(max(x + 3, 0), 6), with and without the division by 6 behind it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {item.name: item for item in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._outputs = {item.name for item in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def ending_in(
        self, product: onnx.NodeProto
    ) -> tuple[onnx.NodeProto, onnx.NodeProto, str, onnx.NodeProto] | None:
        """Return the sum, the clip, what both read, and the last node; None where it is no such."""
        for gate, source in (product.input, product.input[::-1]):
            clip = self._makers.get(gate)
            if clip is None or clip.op_type != "Clip" or len(clip.input) != 3:
                continue
            add = self._makers.get(clip.input[0])
            if add is None or add.op_type != "Add" or source not in add.input:
                continue
            three = next((name for name in add.input if name != source), "")
            bounds = [self._scalar(name) for name in (three, *clip.input[1:])]
            inner = all(self._has_one_reader(node.output[0]) for node in (add, clip))
            if bounds == list(_HARD_SWISH) and inner:
                return add, clip, source, self._division(product) or product
        return None

    def multiply_readers(self, name: str) -> bool:
        """Multiply the weights of a tensor's readers by 6; False where one of them has none.

        They have to be convolutions whose weights are constants of their own.
        """
        readers = self._readers.get(name, [])
        weights = [self._constants.get(node.input[1]) for node in readers if node.op_type == "Conv"]
        own = [
            item
            for item in weights
            if item is not None and item.data_type == _FLOAT and len(self._readers[item.name]) == 1
        ]
        if not readers or len(own) < len(readers) or name in self._outputs:
            return False
        for item in own:
            constant = large_beside if is_beside(item) else inside
            item.CopyFrom(constant(constant_values(item) * np.float32(_SIX), item.name))
        return True

    def _division(self, product: onnx.NodeProto) -> onnx.NodeProto | None:
        behind = self._readers.get(product.output[0], [])
        if len(behind) != 1 or product.output[0] in self._outputs or behind[0].op_type != "Div":
            return None
        (last,) = behind
        divides = last.input[0] == product.output[0] and self._scalar(last.input[1]) == _SIX
        return last if divides else None

    def _has_one_reader(self, name: str) -> bool:
        return len(self._readers.get(name, [])) == 1 and name not in self._outputs

    def _scalar(self, name: str) -> float | None:
        item = self._constants.get(name)
        if item is None or item.data_type != _FLOAT or int(np.prod(item.dims)) != 1:
            return None
        return float(constant_values(item).reshape(()))


def _keep(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
