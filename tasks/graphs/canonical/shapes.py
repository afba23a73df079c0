"""Shapes that are known before any request: asked for in a graph, they become constants."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import shape_inference

from infra.errors import BadInput
from tasks.graphs.canonical.editing import GraphEditor, attributes
from tasks.graphs.weightless import weightless

Sizes = tuple[int | None, ...]
"""Of a tensor's axes; None where it is not known."""


def with_shapes(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Write inferred shapes into the model, as far as they can be inferred.

    What the file says of shapes within it, and of its outputs', is not relied on.

    Raises:
        BadInput: The graph contradicts itself, or an operator is not given what it reads.
    """
    bare = weightless(model)
    for item in bare.graph.output:
        if item.type.HasField("tensor_type"):
            item.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(bare, data_prop=True)
    except Exception as exc:  # onnx's kinds share no base
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
        raise BadInput(
            f"source: the shapes of {where} cannot be worked out ({line}): export it again"
        ) from exc
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    return model


def fold_shapes(model: onnx.ModelProto) -> bool:
    """Turn Shape, and a Gather, Slice or Size of it, into constants where every size is known.

    A condition on such a size is then known too. Returns whether there was one.

    Args:
        model: With inferred shapes.
    """
    editor = GraphEditor(model.graph)
    asked: dict[str, Sizes] = {}
    changes: dict[int, list[onnx.NodeProto]] = {}
    for place, node in enumerate(model.graph.node):
        sizes = _sizes(editor, node, asked)
        if sizes is None:
            continue
        known = np.array([-1 if size is None else size for size in sizes], np.int64)
        scalar = node.op_type == "Gather" and editor.value(node.input[1]).ndim == 0
        if node.op_type == "Size" or scalar:
            known = known.reshape(())
        elif node.op_type != "Gather":
            asked[node.output[0]] = sizes
        if None not in sizes:
            changes[place] = []
            _become(editor, node.output[0], known)
    if changes:
        editor.rewrite(changes)
    return bool(changes)


def _sizes(editor: GraphEditor, node: onnx.NodeProto, asked: dict[str, Sizes]) -> Sizes | None:
    """Return the sizes that a node gives; None where it gives other things."""
    options = attributes(node)
    if node.op_type == "Shape":
        sizes = known_sizes(editor.graph, node.input[0])
        begin, end = int(str(options.get("start", 0))), options.get("end")
        return None if sizes is None else sizes[begin : None if end is None else int(str(end))]
    if not node.input or node.input[0] not in asked:
        return None
    if node.op_type == "Size":
        return (len(asked[node.input[0]]),)
    rest = [name for name in node.input[1:] if name]
    if not all(name in editor.constants for name in rest):
        return None
    sizes, values = asked[node.input[0]], [editor.value(name) for name in rest]
    if node.op_type == "Gather":
        chosen = np.asarray(values[0], np.int64)
        return tuple(sizes[place] for place in chosen.ravel().tolist()) if chosen.ndim < 2 else None
    if node.op_type == "Slice" and len(values) > 1:
        step = int(values[3].item()) if len(values) > 3 else 1
        return sizes[int(values[0].item()) : int(values[1].item()) : step]
    return None


def known_sizes(graph: onnx.GraphProto, tensor: str) -> Sizes | None:
    """Return the sizes of a tensor's axes by input, inference or constant; None without a rank."""
    for value in (*graph.input, *graph.value_info):
        kind = value.type.tensor_type
        if value.name == tensor and kind.HasField("shape"):
            return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    return next((tuple(item.dims) for item in graph.initializer if item.name == tensor), None)


def _become(
    editor: GraphEditor, name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> None:
    editor.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    editor.constants[name] = editor.graph.initializer[-1]
