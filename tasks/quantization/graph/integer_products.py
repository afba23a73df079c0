"""Products of quantized matrices in the form that ONNX Runtime computes in integers."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from infra.weights.naming import is_beside
from tasks.graphs.weightless import weightless
from tasks.graphs.weights import constant_values, inside, large_beside

_PRODUCTS = ("Gemm", "MatMul")


def bias_apart(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Add the bias of a quantized Gemm behind it.

    ONNX Runtime 1.32 computes a quantized Gemm in integers only without a bias in floating point.
    And before it looks for quantizers, it joins a MatMul of two axes and the Add behind it to such
    a Gemm: written as a Gemm without a bias, they stay apart.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    products = _quantized_products(copy.graph)
    if not products:
        return copy
    flat, readers = _flat_tensors(copy), _readers(copy.graph)
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        nodes.append(node)
        if node.name not in products:
            continue
        if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
            nodes.append(_sum_behind(node))
        elif node.op_type == "MatMul" and node.input[0] in flat and _is_added_to(node, readers):
            node.op_type = "Gemm"
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


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
