"""One Q/DQ graph, one form per target (ADR 27)."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from infra.errors import BadInput
from tasks.graphs.integer_regions import mark_floats
from tasks.graphs.weights import constant_values
from tasks.numerics.output_error import INT8_LARGEST
from tasks.quantization.graph.block_floats.lowering import (
    in_tensorrt_operators,
    without_four_bit_floats,
)
from tasks.quantization.graph.float_layers import plain_floats, restored_once
from tasks.quantization.graph.integer_products import (
    begins_at_zero,
    bias_apart,
    stored_products,
    turned_weights,
)
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
_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_NOT_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax")
_UINT8_LARGEST = 255
_ZERO = "requant.zero"


def lower(qdq: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """Return the graph in a target's form.

    "s8" (TensorRT) with residual branches quantized, "u8" (ONNX Runtime on x86) for what that
    fuses, "plain" (ONNX Runtime on a device) without what only those two read.
    """
    match form:
        case "s8":
            floats = without_integer_biases(recurrent_in_floats(in_tensorrt_operators(qdq)))
            return mark_floats(without_results(quantized_branches(floats)))
        case "u8":
            held = without_four_bit_floats(qdq)
            integers = recurrent_in_integers(unsigned_activations(used_integer_biases(held)))
            fused = turned_weights(bias_apart(in_integers(integers)))
            return kept_cuts(gathered_levels(restored_once(plain_floats(fused))))
        case "plain":
            floats = recurrent_in_floats(without_four_bit_floats(qdq))
            return mark_floats(gathered_levels(without_results(floats)))
        case _:
            raise BadInput(f"no lowering is called {form!r}: allowed are 's8', 'u8' and 'plain'")


def unsigned_activations(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Turn S8 with zero-point z into U8 with zero-point z + 128.

    The same arithmetic, and the form that is fused. What is nowhere below 0 has all 255 steps to
    itself: a symmetric quantizer gets zero-point 0 and 127 / 255 of its scale, and ends at the same
    value. A Relu before it then is the end of the product before that.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    graph = copy.graph
    values = {item.name: item for item in graph.initializer}
    quantizers = [
        node
        for node in graph.node
        if node.op_type == "QuantizeLinear"
        and not node.input[2].endswith(".cache_zero_point")  # a graph's inputs keep their type
        and node.input[2] in values
        and values[node.input[2]].data_type == onnx.TensorProto.INT8
    ]
    positive = _nowhere_negative(graph)
    from_zero = {node.input[2]: node.input[1] for node in quantizers if node.input[0] in positive}
    from_zero = {
        zero_point: scale
        for zero_point, scale in from_zero.items()
        if not constant_values(values[zero_point]).any()
        and _is_alone(graph, zero_point, scale, positive)
    }
    for name, scale in from_zero.items():
        values[name].CopyFrom(numpy_helper.from_array(np.asarray(0, np.uint8), name))
        step = constant_values(values[scale]) * np.float32(INT8_LARGEST / _UINT8_LARGEST)
        item, kept = values[scale], constant_values(values[scale]).dtype
        item.CopyFrom(numpy_helper.from_array(np.asarray(step, kept), scale))
    for name in {node.input[2] for node in quantizers} - set(from_zero):
        shifted = np.asarray(int(constant_values(values[name])) + 128, np.uint8)
        values[name].CopyFrom(numpy_helper.from_array(shifted, name))
    return copy


def _nowhere_negative(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that hold no number below 0, by what makes them."""
    positive: set[str] = set()
    for node in graph.node:
        moved = node.op_type in (*_MOVING, *_POOLS) and node.input[0] in positive
        if node.op_type in _NOT_NEGATIVE or moved:
            positive.update(node.output)
    return positive


def _is_alone(
    graph: onnx.GraphProto, zero_point: str, scale: str, positive: Collection[str]
) -> bool:
    """Whether these two serve nobody but quantizers of what is nowhere negative."""
    readers = [node for node in graph.node if {zero_point, scale} & set(node.input)]
    made = {node.output[0] for node in readers if node.op_type == "QuantizeLinear"}
    return all(
        tuple(node.input[1:]) == (scale, zero_point)
        and node.input[0] in (positive if node.op_type == "QuantizeLinear" else made)
        for node in readers
    )


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
    constants = {item.name: item for item in graph.initializer}
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(item.name for item in graph.output)
    from_zero = {
        node.input[0]
        for node in graph.node
        if node.op_type == "QuantizeLinear"
        and begins_at_zero(constants[node.input[2]])
        and reads[node.input[0]] == 1
    }
    cuts = {
        node.name
        for node in graph.node
        if node.op_type in _CUTS
        and (node.output[0] in read or node.input[0] in products)
        and not (
            node.op_type == "Relu" and node.output[0] in from_zero and reads[node.input[0]] == 1
        )
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
    _name_apart(graph, tables.values(), readers)
    by_row = {name: node for name, node in tables.items() if not any(map(_axis, gathers[name]))}
    _as_columns(graph, {node.input[1] for node in by_row.values()})
    kinds = {item.name: item.data_type for item in graph.initializer}
    ordered: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            table = tables[node.input[0]]
            ordered += _gather(node, table, kinds.get(table.input[1], onnx.TensorProto.FLOAT))
        elif node.output[0] not in tables:
            ordered.append(node)
    del graph.node[:]
    graph.node.extend(ordered)
    return copy


def _name_apart(
    graph: onnx.GraphProto, tables: Iterable[onnx.NodeProto], readers: Mapping[str, int]
) -> None:
    """Give a table that is a layer's weight too a second name, for the same file where it has one.

    ONNX Runtime 1.32 takes a stored weight into a product only where nobody else reads it.
    """
    constants = {item.name: item for item in graph.initializer}
    for node in tables:
        for place, name in enumerate(node.input[:2]):
            if readers[name] > 1 and name in constants:
                node.input[place] = f"{name}.gathered"
                graph.initializer.add().CopyFrom(constants[name])
                graph.initializer[-1].name = node.input[place]


def _axis(node: onnx.NodeProto) -> int:
    return next((int(item.i) for item in node.attribute if item.name == "axis"), 0)


def _gather(node: onnx.NodeProto, table: onnx.NodeProto, kind: int) -> list[onnx.NodeProto]:
    """Return what gathers levels and their scales.

    Scales [..., 1] of rows [..., width], or [...] of columns [width, ...].
    """
    levels, scales = table.input[:2]
    places, result, name = node.input[1], node.output[0], node.name
    return [
        helper.make_node(
            "Gather", [levels, places], [f"{result}.levels"], f"{name}.levels", axis=_axis(node)
        ),
        helper.make_node(
            "Cast",
            [f"{result}.levels"],
            [f"{result}.units"],
            f"{name}.units",
            to=kind,
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
