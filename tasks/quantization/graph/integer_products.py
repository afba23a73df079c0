"""Products of quantized matrices in the form that ONNX Runtime computes in integers."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infra.weights.naming import is_beside
from tasks.graphs.weightless import weightless
from tasks.graphs.weights import constant_values, inside, large_beside
from tasks.quantization.weight.rounding import LARGEST_BIAS

_PRODUCTS = ("Gemm", "MatMul")
_JOINED = ("Elu", "HardSigmoid", "LeakyRelu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh")
"""Functions that ONNX Runtime joins to the Gemm before them."""


def bias_apart(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Give the bias of a quantized product a form beside which it stays in integers.

    ONNX Runtime 1.32 computes a quantized Gemm in integers only without a bias in floating point,
    and before it looks for quantizers, it joins a MatMul of two axes and the Add behind it to such
    a Gemm, and a Gemm and the Relu behind it to another. So the bias of a Gemm becomes INT32 in
    steps of both scales' product, which its kernel adds. Where the result goes into a function that
    the runtime joins to the product, or the bias is not such a constant, an Add behind a Gemm
    without a bias takes it. And it keeps a product in floats whose result a quantizer reads beside
    others, or the graph gives out: a Sum of one parts them.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    products = _quantized_products(copy.graph)
    if not products:
        return copy
    flat, readers = _flat_tensors(copy), _readers(copy.graph)
    stored = _StoredBiases(copy.graph, readers)
    shared = _quantized_beside_readers(copy.graph, readers)
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        behind: list[onnx.NodeProto] = []
        if node.name in products and node.op_type == "Gemm":
            if len(node.input) > 2 and node.input[2]:
                restoring = stored.restored(node)
                nodes += restoring
                behind = [] if restoring else [_sum_behind(node)]
        elif node.name in products and node.input[0] in flat and _is_added_to(node, readers):
            node.op_type = "Gemm"
        if node.name in products and node.output[0] in shared and not behind:
            behind = [_parted(node)]
        nodes += [node, *behind]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


class _StoredBiases:
    """Writes biases of products as INT32, in steps of their two scales' product."""

    def __init__(self, graph: onnx.GraphProto, readers: dict[str, list[onnx.NodeProto]]) -> None:
        self._graph, self._readers = graph, readers
        self._constants = {item.name: item for item in graph.initializer}
        self._makers = {node.output[0]: node for node in graph.node if node.output}
        self._outputs = {item.name for item in graph.output}

    def restored(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the node that restores a Gemm's bias, which then reads it; none where none fits.

        A bias fits that is one constant for each output, and far from what INT32 holds.
        """
        scale, item = self._scale(node), self._constants.get(node.input[2])
        if scale is None or item is None or not self._ends_plainly(node):
            return []
        bias = constant_values(item).astype(np.float64).ravel()
        outputs = max(scale.size, bias.size)
        if bias.size != outputs or scale.size not in (1, outputs):
            return []
        levels = np.rint(bias / scale)
        if not (np.abs(levels) < LARGEST_BIAS).all():
            return []
        name = f"{node.name}.offset"
        self._graph.initializer.extend(
            [
                numpy_helper.from_array(levels.astype(np.int32), f"{name}.quantized"),
                numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"),
            ]
        )
        node.input[2] = f"{name}.dequantized"
        parts, options = [f"{name}.quantized", f"{name}.scale"], {"axis": 0} if scale.ndim else {}
        return [
            helper.make_node(
                "DequantizeLinear", parts, [node.input[2]], f"{name}.dequantize", **options
            )
        ]

    def _scale(self, node: onnx.NodeProto) -> NDArray[np.float64] | None:
        """Return the step of a product's sums, [] or [outputs]; None where blocks have steps."""
        scales = [self._constants.get(self._makers[name].input[1]) for name in node.input[:2]]
        options = {item.name: item.f for item in node.attribute if item.name in ("alpha", "beta")}
        if None in scales or set(options.values()) - {1.0}:
            return None
        activation, weight = (constant_values(item).astype(np.float64) for item in scales if item)
        if activation.size != 1 or weight.ndim > 1:
            return None
        return np.asarray(activation.reshape(()) * weight)

    def _ends_plainly(self, node: onnx.NodeProto) -> bool:
        """Whether the runtime joins nothing to the product that would keep it in floats.

        A Relu is the product's own end only where the quantizer behind it begins at 0.
        """
        for reader in self._readers.get(node.output[0], []):
            if reader.op_type == "Relu":
                behind = self._only_reader(reader.output[0])
                if behind is None or not self._begins_at_zero(behind):
                    return False
            elif reader.op_type in _JOINED:
                return False
        return True

    def _only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def _begins_at_zero(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "QuantizeLinear" and begins_at_zero(self._constants[node.input[2]])


def begins_at_zero(zero_point: onnx.TensorProto) -> bool:
    """Return whether a quantizer of this zero-point has no level below 0."""
    unsigned = zero_point.data_type == TensorProto.UINT8
    return unsigned and not constant_values(zero_point).any()


def stored_products(graph: onnx.GraphProto) -> set[str]:
    """Return what products make of a weight that is stored in fewer bits."""
    restored = _restored_weights(graph)
    return {
        node.output[0]
        for node in graph.node
        if node.op_type in _PRODUCTS and node.input[1] in restored
    }


def turned_weights(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Store the weight of a Gemm as [inputs, outputs] where its activation stays in floats.

    ONNX Runtime 1.32 takes a stored weight into such a product only that way round, and else
    restores it at every call.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    restoring = {node.output[0]: node for node in copy.graph.node if node.output}
    restored, readers = _restored_weights(copy.graph), _readers(copy.graph)
    constants = {item.name: item for item in copy.graph.initializer}
    for node in copy.graph.node:
        turned = next((item for item in node.attribute if item.name == "transB"), None)
        if node.op_type != "Gemm" or turned is None or not turned.i:
            continue
        maker = restoring.get(node.input[0])
        in_integers = maker is not None and maker.op_type == "DequantizeLinear"
        if in_integers or node.input[1] not in restored or len(readers[node.input[1]]) != 1:
            continue
        _turn(restoring[node.input[1]], constants)
        node.attribute.remove(turned)
    return copy


def _turn(restoring: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    """Transpose a weight, and its scales in blocks, and let the node that restores it know."""
    for name in restoring.input:
        values = constant_values(constants[name])
        if values.ndim == 2:
            constant = large_beside if is_beside(constants[name]) else inside
            constants[name].CopyFrom(constant(values.T, name))
    for item in restoring.attribute:
        if item.name == "axis":
            item.i = 1 - item.i


def _restored_weights(graph: onnx.GraphProto) -> set[str]:
    constants = {item.name for item in graph.initializer}
    return {
        node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and set(node.input) <= constants
    }


def _quantized_products(graph: onnx.GraphProto) -> set[str]:
    """Return names of products of a restored activation and a restored INT8 weight."""
    restored = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    int8 = {item.name for item in graph.initializer if item.data_type == TensorProto.INT8}
    return {
        node.name
        for node in graph.node
        if node.op_type in _PRODUCTS
        and all(name in restored for name in node.input[:2])
        and restored[node.input[1]].input[0] in int8
    }


def _sum_behind(node: onnx.NodeProto) -> onnx.NodeProto:
    """Take the bias out of a Gemm, and return the node that adds it."""
    result, bias = node.output[0], node.input[2]
    del node.input[2:]
    node.output[0] = f"{result}.product"
    return helper.make_node("Add", [node.output[0], bias], [result], f"{node.name}.sum")


def _quantized_beside_readers(
    graph: onnx.GraphProto, readers: dict[str, list[onnx.NodeProto]]
) -> set[str]:
    """Return the tensors that quantizers read and others, too, or that the graph gives out."""
    outputs = {item.name for item in graph.output}
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    return {name for name in quantized if name in outputs or len(readers[name]) > 1}


def _parted(node: onnx.NodeProto) -> onnx.NodeProto:
    """Name a product's result anew, and return what gives it its name again."""
    result = node.output[0]
    node.output[0] = f"{result}.product"
    return helper.make_node("Sum", [node.output[0]], [result], f"{node.name}.parted")


def _is_added_to(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    return any(reader.op_type == "Add" for reader in readers.get(node.output[0], []))


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _flat_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Return the tensors that are known to have two axes."""
    inferred = onnx.shape_inference.infer_shapes(weightless(model)).graph
    return frozenset(
        item.name
        for item in (*inferred.value_info, *inferred.input, *inferred.output)
        if item.type.tensor_type.HasField("shape") and len(item.type.tensor_type.shape.dim) == 2
    )
