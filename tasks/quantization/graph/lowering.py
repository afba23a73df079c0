"""One Q/DQ graph, one form per target (ADR 27)."""

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

from infra.errors import BadInput
from tasks.graphs.integer_regions import mark_floats
from tasks.graphs.weights import constant_values
from tasks.quantization.graph.float_layers import plain_floats, restored_once
from tasks.quantization.graph.integer_products import bias_apart, stored_products, turned_weights
from tasks.quantization.graph.integers import in_integers, without_results
from tasks.quantization.graph.recurrent import recurrent_in_floats, recurrent_in_integers
from tasks.quantization.graph.residuals import quantized_branches
from tasks.quantization.weight.integer_biases import used_integer_biases, without_integer_biases

_CUTS = ("Relu", "Clip")
_MOVING = (
    "Flatten",
    "Identity",
    "MaxPool",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""Before these ONNX Runtime moves a quantizer that stands behind them."""
_ZERO = "requant.zero"


def lower(qdq: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """Return the graph in a target's form.

    "s8" (TensorRT) with residual branches quantized, "u8" (ONNX Runtime on x86) for what that
    fuses, "plain" (ONNX Runtime on a device) without what only those two read.
    """
    match form:
        case "s8":
            floats = without_integer_biases(recurrent_in_floats(qdq))
            return mark_floats(without_results(quantized_branches(floats)))
        case "u8":
            integers = recurrent_in_integers(unsigned_activations(used_integer_biases(qdq)))
            fused = in_integers(turned_weights(bias_apart(integers)))
            return kept_cuts(gathered_levels(restored_once(plain_floats(fused))))
        case "plain":
            return mark_floats(gathered_levels(without_results(recurrent_in_floats(qdq))))
        case _:
            raise BadInput(f"no lowering is called {form!r}: allowed are 's8', 'u8' and 'plain'")


def unsigned_activations(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Turn S8 with zero-point z into U8 with zero-point z + 128.

    The same arithmetic, and the form that is fused.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    shifted = {node.input[2] for node in copy.graph.node if node.op_type == "QuantizeLinear"}
    shifted -= {
        name for name in shifted if name.endswith(".cache_zero_point")
    }  # a graph's inputs keep their type
    for item in copy.graph.initializer:
        if item.name in shifted and item.data_type == onnx.TensorProto.INT8:
            zero_point = int(constant_values(item))
            item.CopyFrom(
                numpy_helper.from_array(np.asarray(zero_point + 128, np.uint8), item.name)
            )
    return copy


def kept_cuts(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Turn Relu and Clip before an FP8 quantizer, or behind a stored product, into Max and Min.

    ONNX Runtime 1.32 drops the one and fails on the other before an FP8 quantizer: its
    ReluQuantRewrite takes the zero-point's byte for the lowest level, which is so for U8 and not
    for FP8. Behind a product it takes them for the product's own end, finds no quantizer there that
    cuts as they do, and leaves the product in floats.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    graph = copy.graph
    fp8 = {
        item.name for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT8E4M3FN
    }
    read = {
        node.input[0]
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[2] in fp8
    }
    for node in reversed(graph.node):
        if node.op_type in _MOVING and node.output[0] in read:
            read.add(node.input[0])
    products = stored_products(graph)
    cuts = {
        node.name
        for node in graph.node
        if node.op_type in _CUTS and (node.output[0] in read or node.input[0] in products)
    }
    if not cuts:
        return copy
    nodes = [
        lowered for node in graph.node for lowered in (_cut(node) if node.name in cuts else [node])
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), _ZERO))
    return copy


def _cut(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    low, high = (_ZERO, "") if node.op_type == "Relu" else (*node.input[1:], "", "")[:2]
    bounds = [(op, bound) for op, bound in (("Max", low), ("Min", high)) if bound] or [
        ("Identity", "")
    ]
    source, nodes = node.input[0], []
    for place, (op, bound) in enumerate(bounds):
        result = node.output[0] if place == len(bounds) - 1 else f"{node.output[0]}.{op}"
        nodes.append(
            helper.make_node(
                op, [source, bound] if bound else [source], [result], f"{node.name}.{op}"
            )
        )
        source = result
    return nodes


def gathered_levels(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Dequantize a table after its rows are gathered.

    ONNX Runtime would restore all of it for every batch.

    TensorRT wants it the other way round: it takes a quantized constant only before its
    DequantizeLinear.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    graph = copy.graph
    readers = Counter(name for node in graph.node for name in node.input)
    gathers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Gather":
            gathers.setdefault(node.input[0], []).append(node)
    constants = {item.name for item in graph.initializer}
    tables = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in constants  # a Gather of an activation picks of its axes
        and len(gathers.get(node.output[0], [])) == readers[node.output[0]] > 0
    }
    _as_columns(graph, {node.input[1] for node in tables.values()})
    ordered: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            ordered += _gather(node, tables[node.input[0]])
        elif node.output[0] not in tables:
            ordered.append(node)
    del graph.node[:]
    graph.node.extend(ordered)
    return copy


def _gather(node: onnx.NodeProto, table: onnx.NodeProto) -> list[onnx.NodeProto]:
    levels, scales = table.input[:2]
    places, result, name = node.input[1], node.output[0], node.name
    return [
        helper.make_node("Gather", [levels, places], [f"{result}.levels"], f"{name}.levels"),
        helper.make_node(
            "Cast",
            [f"{result}.levels"],
            [f"{result}.units"],
            f"{name}.units",
            to=onnx.TensorProto.FLOAT,
        ),
        helper.make_node("Gather", [scales, places], [f"{result}.scales"], f"{name}.scales"),
        helper.make_node(
            "Mul", [f"{result}.units", f"{result}.scales"], [result], f"{name}.restore"
        ),
    ]


def _as_columns(graph: onnx.GraphProto, names: set[str]) -> None:
    """Reshape scales [rows] -> [rows, 1], so that gathered ones broadcast along the row."""
    for item in graph.initializer:
        if item.name in names:
            item.CopyFrom(numpy_helper.from_array(constant_values(item).reshape(-1, 1), item.name))
