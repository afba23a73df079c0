"""Branches and loops whose conditions are not known: they stay as they are, apart from the rest.

Everything else reads and changes the nodes of the graph itself. So a body reads no tensor that is
changed there: it has constants of its own, and the rest under a name that nobody else reads.
"""

from __future__ import annotations

import onnx
from onnx import helper

from tasks.graphs.canonical.editing import GraphEditor, bodies, body_reads, rename_reads


def set_bodies_apart(model: onnx.ModelProto) -> int:
    """Give bodies constants and inputs of their own; returns how many nodes have a body.

    Floats are handed over by a Sum of one: ONNX Runtime 1.32 takes an Identity out, and then its
    QDQPropagationTransformer aborts where Q/DQ moves on to what a body reads.

    Args:
        model: With inferred types.
    """
    editor = GraphEditor(model.graph)
    floats = {
        value.name
        for value in (*model.graph.input, *model.graph.value_info)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    changes: dict[int, list[onnx.NodeProto]] = {}
    holders = [(place, node) for place, node in enumerate(model.graph.node) if any(bodies(node))]
    for place, node in holders:
        names = sorted(body_reads(node))
        own = {name: editor.fresh(f"{name.replace('.', '_')}_inside") for name in names}
        rename_reads_inside(node, own)
        for name in names:
            if name in editor.constants:
                _give(node, editor.constants[name], own[name])
        read = [name for name in names if name not in editor.constants]
        changes[place] = [
            *(
                helper.make_node("Sum" if name in floats else "Identity", [name], [own[name]])
                for name in read
            ),
            node,
        ]
    if changes:
        editor.rewrite(changes)
    return len(holders)


def rename_reads_inside(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Let the bodies of a node read other tensors, and the node itself what it read before."""
    inputs = list(node.input)
    rename_reads(node, names)
    node.input[:] = inputs


def _give(node: onnx.NodeProto, constant: onnx.TensorProto, name: str) -> None:
    for body in bodies(node):
        item = body.initializer.add()
        item.CopyFrom(constant)
        item.name = name
