"""Products with a constant, in the form that can be quantized: x times [inputs, outputs]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

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
    """Multiply alpha into the weight and beta into the bias; transpose what transA asks for.

    What is added and is no bias, one number a column, is added behind the product.
    """
    options = attributes(node)
    alpha, beta = (float(str(options.get(name, 1.0))) for name in ("alpha", "beta"))
    added = node.input[2] if len(node.input) > 2 else ""
    if node.input[1] not in editor.constants:
        return _turned_gemm(editor, node) if node.input[0] in editor.constants else None
    columns = editor.constants[node.input[1]].dims[0 if options.get("transB", 0) else 1]
    bias = _row(editor, added, columns)
    plain = bias is not None and editor.constants[added].dims == [columns]
    turned = bool(options.get("transA", 0))
    if (plain or not added) and alpha == beta == 1.0 and not turned:
        return None
    name = node.name or node.output[0]
    nodes, source = [], node.input[0]
    if turned:
        source = editor.fresh(f"{name}_transposed")
        nodes.append(helper.make_node("Transpose", [node.input[0]], [source], perm=[1, 0]))
    inputs = [source, editor.changed(node.input[1], _scaled(editor, node.input[1], alpha))]
    result = node.output[0]
    if bias is not None:
        inputs.append(editor.changed(added, (bias.astype(np.float64) * beta).astype(bias.dtype)))
    elif added:
        result = editor.fresh(f"{name}_product")
    kept = {"transB": options["transB"]} if "transB" in options else {}
    nodes.append(helper.make_node("Gemm", inputs, [result], node.name, **kept))
    return nodes if result == node.output[0] else [*nodes, *_added(editor, node, result, beta)]


def _row(editor: GraphEditor, name: str, columns: int) -> NDArray[np.generic] | None:
    """Return a constant that is the same for every row, [columns]; None for anything else."""
    if name not in editor.constants:
        return None
    values = editor.value(name)
    if values.size != 1 and values.shape not in ((columns,), (1, columns)):
        return None
    return np.array(np.broadcast_to(values.reshape(-1), (columns,)))


def _added(
    editor: GraphEditor, node: onnx.NodeProto, product: str, beta: float
) -> list[onnx.NodeProto]:
    """Add what a Gemm adds, times beta, to its product."""
    added, nodes = node.input[2], []
    if added in editor.constants and beta != 1.0:
        added = editor.changed(added, _scaled(editor, added, beta))
    elif beta != 1.0:
        name = node.name or node.output[0]
        factor = editor.add(f"{name}_beta", np.asarray(beta, np.float32))
        added = editor.fresh(f"{name}_added")
        nodes.append(helper.make_node("Mul", [node.input[2], factor], [added]))
    return [*nodes, helper.make_node("Add", [product, added], list(node.output))]


def _turned_gemm(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Write a Gemm whose weight is on the left, W x, as the transposed product x' W'."""
    options, name = attributes(node), node.name or node.output[0]
    alpha, beta = (float(str(options.get(key, 1.0))) for key in ("alpha", "beta"))
    values = _scaled(editor, node.input[0], alpha)
    weight = editor.changed(node.input[0], values if options.get("transA", 0) else values.T)
    nodes, source = [], node.input[1]
    if not options.get("transB", 0):
        source = editor.fresh(f"{name}_right")
        nodes.append(helper.make_node("Transpose", [node.input[1]], [source], perm=[1, 0]))
    product = editor.fresh(f"{name}_product")
    adds = len(node.input) > 2 and bool(node.input[2])
    result = editor.fresh(f"{name}_result") if adds else node.output[0]
    nodes += [
        helper.make_node("MatMul", [source, weight], [product], node.name),
        helper.make_node("Transpose", [product], [result], perm=[1, 0]),
    ]
    return [*nodes, *_added(editor, node, result, beta)] if adds else nodes


def _plain_convolution(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Add a bias that is computed behind the convolution."""
    bias = node.input[2] if len(node.input) > 2 else ""
    if not bias or bias in editor.constants or node.input[1] not in editor.constants:
        return None
    name, axes = node.name or node.output[0], len(editor.constants[node.input[1]].dims)
    shape = editor.add(f"{name}_channels", np.asarray([1, -1, *[1] * (axes - 2)], np.int64))
    product, beside = editor.fresh(f"{name}_product"), editor.fresh(f"{name}_bias")
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.input[2:]
    alone.output[0] = product
    return [
        alone,
        helper.make_node("Reshape", [bias, shape], [beside]),
        helper.make_node("Add", [product, beside], list(node.output)),
    ]


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


@dataclass(frozen=True, slots=True)
class _Summed:
    """Letters of `batch summed, summed free -> batch free`, each part in one order."""

    batch: str
    summed: str
    free: str


def _plain_einsum(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Write `btd,dhk->bthk` as MatMul, and Reshape where several axes are summed or made.

    Where the constant's summed axes are the last ones of the other factor, and the axes that it
    brings in the last ones of the result.
    """
    if len(node.input) != 2:
        return None
    constants = [name in editor.constants for name in node.input]
    if constants.count(True) != 1:
        return None
    place = constants.index(True)
    equation = attributes(node)["equation"]
    sides = _sides(equation.decode() if isinstance(equation, bytes) else "", place)
    if sides is None:
        return None
    weight, parts = sides
    values = editor.value(node.input[place])
    if values.dtype != np.float32 or values.ndim != len(weight):
        return None
    sizes = dict(zip(weight, values.shape, strict=True))
    order = [weight.index(letter) for letter in parts.summed + parts.free]
    inner, outer = (prod(sizes[item] for item in side) for side in (parts.summed, parts.free))
    name = node.name or node.output[0]
    matrix = editor.changed(node.input[place], values.transpose(order).reshape(inner, outer))
    source, result, nodes = node.input[1 - place], node.output[0], []
    kept = [0] * len(parts.batch)
    if len(parts.summed) > 1:
        shape = editor.add(f"{name}_summed", np.asarray([*kept, inner], np.int64))
        source = editor.fresh(f"{name}_rows")
        nodes.append(helper.make_node("Reshape", [node.input[1 - place], shape], [source]))
    if len(parts.free) != 1:
        result = editor.fresh(f"{name}_product")
    nodes.append(helper.make_node("MatMul", [source, matrix], [result], node.name))
    if result != node.output[0]:
        made = [sizes[letter] for letter in parts.free]
        shape = editor.add(f"{name}_made", np.asarray([*kept, *made], np.int64))
        nodes.append(helper.make_node("Reshape", [result, shape], list(node.output)))
    return nodes


def _sides(equation: str, place: int) -> tuple[str, _Summed] | None:
    """Return the letters of the constant, and the product that it makes; None for others."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    factors = terms.split(",")
    if not arrow or len(factors) != 2 or "." in equation:
        return None
    weight, letters = factors[place], factors[1 - place]
    if any(len(set(term)) < len(term) for term in (weight, letters, result)):
        return None
    summed = "".join(letter for letter in letters if letter in weight)
    free = "".join(letter for letter in result if letter in weight)
    batch = letters.removesuffix(summed)
    fits = (
        batch
        and summed
        and letters == batch + summed
        and result == batch + free
        and set(weight) == set(summed + free)
        and not set(summed) & set(result)
    )
    return (weight, _Summed(batch, summed, free)) if fits else None


def _scaled(editor: GraphEditor, name: str, factor: float) -> NDArray[np.generic]:
    values = editor.value(name)
    return np.asarray(values.astype(np.float64) * factor, values.dtype)


REWRITINGS: Mapping[str, Rewriting] = {
    "Conv": _plain_convolution,
    "Einsum": _plain_einsum,
    "FusedMatMul": _plain_fused,
    "Gemm": _plain_gemm,
    "MatMul": _plain_matmul,
}
