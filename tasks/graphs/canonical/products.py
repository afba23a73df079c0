"""Products with a constant, in the form that can be quantized: x times [inputs, outputs]."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tasks.graphs.canonical.editing import GraphEditor, attributes

Rewriting = Callable[[GraphEditor, onnx.NodeProto], list[onnx.NodeProto] | None]
"""From a node to what stands in its place; None where it stays."""


def plain_products(model: onnx.ModelProto) -> None:
    """Rewrite Gemm's factors, fused products, stacks of one matrix, and weights on the left."""
    for op_type, rewrite in REWRITINGS.items():
        editor = GraphEditor(model.graph)
        changes = {
            place: nodes
            for place, node in enumerate(model.graph.node)
            if node.op_type == op_type and (nodes := rewrite(editor, node)) is not None
        }
        if changes:
            editor.rewrite(changes)


def _plain_gemm(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Multiply alpha into the weight and beta into the bias; transpose what transA asks for."""
    options = attributes(node)
    alpha, beta = (float(str(options.get(name, 1.0))) for name in ("alpha", "beta"))
    turned, bias = bool(options.get("transA", 0)), node.input[2] if len(node.input) > 2 else ""
    known = node.input[1] in editor.constants and (not bias or bias in editor.constants)
    if not known or (alpha == beta == 1.0 and not turned):
        return None
    name = node.name or node.output[0]
    nodes, source = [], node.input[0]
    if turned:
        source = editor.fresh(f"{name}_transposed")
        nodes.append(helper.make_node("Transpose", [node.input[0]], [source], perm=[1, 0]))
    weight = editor.changed(node.input[1], _scaled(editor, node.input[1], alpha))
    inputs = [source, weight]
    if bias:
        inputs.append(editor.changed(bias, _scaled(editor, bias, beta)))
    kept = {"transB": options["transB"]} if "transB" in options else {}
    return [*nodes, helper.make_node("Gemm", inputs, list(node.output), node.name, **kept)]


def _plain_fused(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Write ONNX Runtime's FusedMatMul as MatMul, its factor and transposition in the weight."""
    options = attributes(node)
    if options.get("transBatchA", 0) or options.get("transBatchB", 0):
        return None
    alpha, name = float(str(options.get("alpha", 1.0))), node.name or node.output[0]
    nodes: list[onnx.NodeProto] = []
    left, right = node.input
    if options.get("transA", 0):
        swapped = _swapped(editor, left, f"{name}_left", nodes)
        if swapped is None:
            return None
        left = swapped
    if right in editor.constants:
        values = _scaled(editor, right, alpha)
        if options.get("transB", 0):
            values = np.swapaxes(values, -1, -2)
        weight = editor.changed(right, values)
        product = helper.make_node("MatMul", [left, weight], list(node.output), node.name)
        return [*nodes, product]
    if options.get("transB", 0):
        swapped = _swapped(editor, right, f"{name}_right", nodes)
        if swapped is None:
            return None
        right = swapped
    product_name = editor.fresh(f"{name}_product")
    factor = editor.add(f"{name}_factor", np.asarray(alpha, np.float32))
    return [
        *nodes,
        helper.make_node("MatMul", [left, right], [product_name], node.name),
        helper.make_node("Mul", [product_name, factor], list(node.output)),
    ]


def _swapped(
    editor: GraphEditor, tensor: str, wanted: str, nodes: list[onnx.NodeProto]
) -> str | None:
    """Transpose the last two axes of a tensor; None where its axes are not known."""
    rank = _rank(editor, tensor)
    if rank is None or rank < 2:
        return None
    output = editor.fresh(wanted)
    perm = [*range(rank - 2), rank - 1, rank - 2]
    nodes.append(helper.make_node("Transpose", [tensor], [output], perm=perm))
    return output


def _plain_matmul(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    left, right = node.input
    if right in editor.constants and left not in editor.constants:
        return _flattened(editor, node)
    if left in editor.constants and right not in editor.constants:
        return _turned(editor, node)
    return None


def _flattened(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Take leading ones off a stack of one matrix, [1, inputs, outputs].

    The result keeps them where the other factor has no such axis: a stack is broadcast, and what is
    read with fewer axes gains them.
    """
    shape = tuple(editor.constants[node.input[1]].dims)
    rank = _rank(editor, node.input[0])
    if len(shape) < 3 or any(size != 1 for size in shape[:-2]) or rank is None:
        return None
    if rank < len(shape):
        return None
    weight = editor.changed(node.input[1], editor.value(node.input[1]).reshape(shape[-2:]))
    return [helper.make_node("MatMul", [node.input[0], weight], list(node.output), node.name)]


def _turned(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Write W x as the transposed product of x transposed and W transposed."""
    values = editor.value(node.input[0])
    rank = _rank(editor, node.input[1])
    if values.ndim != 2 or rank is None or rank < 2:
        return None
    name, perm = node.name or node.output[0], [*range(rank - 2), rank - 1, rank - 2]
    before, after = editor.fresh(f"{name}_right"), editor.fresh(f"{name}_product")
    weight = editor.changed(node.input[0], values.T)
    return [
        helper.make_node("Transpose", [node.input[1]], [before], perm=perm),
        helper.make_node("MatMul", [before, weight], [after], node.name),
        helper.make_node("Transpose", [after], list(node.output), perm=perm),
    ]


def _rank(editor: GraphEditor, tensor: str) -> int | None:
    """Return how many axes a tensor has, by shape inference; None where that cannot tell."""
    for value in (*editor.graph.input, *editor.graph.value_info, *editor.graph.output):
        if value.name == tensor and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return None


def _scaled(editor: GraphEditor, name: str, factor: float) -> NDArray[np.generic]:
    values = editor.value(name)
    return np.asarray(values.astype(np.float64) * factor, values.dtype)


REWRITINGS: Mapping[str, Rewriting] = {
    "FusedMatMul": _plain_fused,
    "Gemm": _plain_gemm,
    "MatMul": _plain_matmul,
}
