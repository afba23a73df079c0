"""Names of a model that Requant would give to what it adds: they are changed once, at the door.

Everything that a quantized graph gains is named after a tensor or a node of the model, with one of
these endings. A model's own `h.scale` beside `h` would be taken for ours.
"""

from __future__ import annotations

import re
from itertools import count

import onnx
from onnx import helper

from tasks.graphs.canonical.editing import GraphEditor, all_nodes, bodies, own_names, rename_reads

ENDINGS = (
    "scale", "zero_point", "quantized", "dequantized", "quantize", "dequantize", "smoothing",
    "smoothed", "smooth", "weight", "correction", "correct", "uncorrected", "cast", "uncast",
    "fp16", "bf16", "levels", "units", "scales", "restore", "Max", "Min", "Identity", "toggle",
    "full", "rounded", "rounding", "gate", "slope", "sum", "offset", "exact", "branch", "float",
    "cache_scale", "cache_zero_point", "new", "join", "place", "read", "choose", "integer",
    "product", "divide_by_range", "largest", "least_range", "magnitude", "magnitudes",
    "no_range_of_zero", "of_token", "range_of_token", "times_range", "token_axis", "token_range",
    "Sub", "Mul", "by", "shifted", "input", "per_token", "state", "shape", "shaped", "shaper",
    "integer_bias", "parted", "result",
)  # fmt: skip
"""Last parts of the names that Requant makes, behind a dot."""
OWN = "requant."
"""What begins so is Requant's, whatever it is named after."""
_ENDING = re.compile(rf"(.+?)((?:\.(?:{'|'.join(ENDINGS)}|constant\d+|\d+))+)$")


def free_names(model: onnx.ModelProto) -> None:
    """Rename tensors, constants and nodes whose names Requant could make; inputs and outputs stay.

    A name that an input or output has stays, and what it seems to be made of is renamed instead.
    """
    graph = model.graph
    public = {item.name for item in (*graph.input, *graph.output)}
    editor = GraphEditor(graph)
    _part_from_weights(graph, editor)
    stems = _names(graph)
    changes: dict[str, str] = {}
    for name in sorted(stems):
        stem = _clashing(name, stems)
        if stem is None:
            continue
        renamed = stem if name in public and stem not in public else name
        if renamed not in public:
            changes[renamed] = editor.fresh(f"{renamed.replace('.', '_')}_")
    _rename(graph, changes)
    _stand_aside(graph, public, editor)
    _free_bodies(graph, _names(graph), editor)
    name_nodes(graph)


def _part_from_weights(graph: onnx.GraphProto, editor: GraphEditor) -> None:
    """Rename a node `fc` beside an `fc.weight` that is not the node's own alone.

    What is made of the one, as of an activation or a table, would be made of the other too.
    """
    tensors = {*editor.constants, *editor.makers, *(item.name for item in graph.input)}
    for node in graph.node:
        weight = f"{node.name}.weight"
        readers = editor.readers.get(weight, [])
        own = weight in editor.constants and all(reader is node for reader in readers)
        if weight in tensors and (not own or weight in editor.outputs):
            node.name = editor.fresh(f"{node.name}_layer")


def _free_bodies(graph: onnx.GraphProto, outer: set[str], editor: GraphEditor) -> None:
    """Rename what bodies call as the graph around them does, or as Requant could call something.

    Runtimes differ in what such a name means inside.
    """
    for node in graph.node:
        for body in bodies(node):
            own = own_names(body)
            inner_nodes = {item.name for item in all_nodes(body)}
            changes = {
                name: editor.fresh(f"{name.replace('.', '_')}_")
                for name in sorted(own | inner_nodes)
                if name and (name in outer or name.startswith(OWN) or _ENDING.match(name))
            }
            _rename_body(body, changes)
            _free_bodies(body, outer | own_names(body), editor)


def _rename_body(body: onnx.GraphProto, changes: dict[str, str]) -> None:
    if not changes:
        return
    for item in (*body.input, *body.initializer, *body.value_info, *body.output):
        item.name = changes.get(item.name, item.name)
    for sparse in body.sparse_initializer:
        sparse.values.name = changes.get(sparse.values.name, sparse.values.name)
    for node in body.node:
        rename_reads(node, changes)
        node.name = changes.get(node.name, node.name)
        node.output[:] = [changes.get(name, name) for name in node.output]


def name_nodes(graph: onnx.GraphProto) -> None:
    """Name the nodes without a name, which ONNX allows.

    Sites and Q/DQ nodes are named after theirs.
    """
    names = {node.name for node in graph.node}
    met = {""}
    for index, node in enumerate(graph.node):
        if node.name in met:
            node.name = next(
                name
                for extra in count()
                if (name := f"{node.op_type}_{index}{'_' * extra}") not in names | met
            )
        met.add(node.name)


def _names(graph: onnx.GraphProto) -> set[str]:
    return {
        *(item.name for item in (*graph.initializer, *graph.input)),
        *(name for node in graph.node for name in (node.name, *node.output) if name),
    }


def _clashing(name: str, names: set[str]) -> str | None:
    """Return the name that this one could be made of; None where there is none.

    A weight called `fc.weight` is no clash: only longer endings are ever made of a node `fc`.
    """
    if name.startswith(OWN):
        return name
    match = _ENDING.match(name)
    if match is None or match[2] == ".weight":
        return None
    stem, rest = match[1], match[2].split(".")[1:]
    longer = (".".join([stem, *rest[:length]]) for length in range(len(rest)))
    return next((made_of for made_of in longer if made_of in names), None)


def _rename(graph: onnx.GraphProto, changes: dict[str, str]) -> None:
    if not changes:
        return
    for item in (*graph.initializer, *graph.value_info):
        item.name = changes.get(item.name, item.name)
    for node in graph.node:
        node.name = changes.get(node.name, node.name)
        node.input[:] = [changes.get(name, name) for name in node.input]
        node.output[:] = [changes.get(name, name) for name in node.output]


def _stand_aside(graph: onnx.GraphProto, public: set[str], editor: GraphEditor) -> None:
    """Read an input, whose name another input or output is made of, under a name of its own."""
    inputs = {item.name for item in graph.input}
    for name in sorted(public):
        stem = _clashing(name, public)
        if stem is None or stem not in inputs or stem == name:
            continue
        own = editor.fresh(f"{stem.replace('.', '_')}_read")
        for node in graph.node:
            node.input[:] = [own if source == stem else source for source in node.input]
        graph.node.insert(0, helper.make_node("Identity", [stem], [own]))
