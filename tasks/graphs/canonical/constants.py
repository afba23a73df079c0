"""What is known before any request: constants become initializers, and so does what follows."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from infra.engines import open_target
from infra.errors import BadInput
from tasks.graphs.canonical.editing import GraphEditor, attributes, body_reads, rename_reads
from tasks.graphs.weights import constants_for

LARGEST_GROWTH = 1 << 20
"""Values by which a folded constant may be larger than what it is made of: an expanded mask is
better computed."""
DRAWING = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""Operators that answer by chance."""
_QUANTIZED = frozenset({"DequantizeLinear", "QuantizeLinear"})
_SCALARS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def without_listed_initializers(model: onnx.ModelProto) -> None:
    """Take weights out of the list of inputs, where exporters for IR versions up to 3 put them."""
    weights = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in weights]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)  # earlier ones want them listed


def lift_constants(model: onnx.ModelProto) -> None:
    """Turn Constant nodes, and sparse constants, into initializers."""
    graph = model.graph
    graph.initializer.extend(_dense(item, item.values.name) for item in graph.sparse_initializer)
    del graph.sparse_initializer[:]
    kept = []
    for node in graph.node:
        tensor = _tensor(node) if node.op_type == "Constant" else None
        if tensor is None:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute, in ONNX Runtime, what follows from constants alone.

    So a weight that reaches its layer through Transpose, Cast, Reshape, Slice or a chain of them
    becomes the layer's own. A quantized weight stays behind its DequantizeLinear.
    """
    graph = model.graph
    known = {item.name for item in graph.initializer}
    foldable: list[onnx.NodeProto] = []
    for node in graph.node:
        if _follows(node, known):
            foldable.append(node)
            known.update(node.output)
    if not foldable:
        return
    values = _computed(model, foldable)
    nodes = [node for node in graph.node if not all(name in values for name in node.output if name)]
    graph.initializer.extend(values.values())
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def take_known_branches(model: onnx.ModelProto) -> bool:
    """Put the branch of an If whose condition is constant in the node's place.

    Returns whether there was one.
    """
    taken = False
    while True:
        editor = GraphEditor(model.graph)
        place = next(
            (
                place
                for place, node in enumerate(model.graph.node)
                if node.op_type == "If" and node.input[0] in editor.constants
            ),
            None,
        )
        if place is None:
            return taken
        _take_branch(editor, place)
        lift_constants(model)
        taken = True


def hand_out_constants(model: onnx.ModelProto) -> None:
    """Let a node return what is the same for every request: an output names no constant then."""
    editor = GraphEditor(model.graph)
    for output in model.graph.output:
        constant = editor.constants.get(output.name)
        if constant is None:
            continue
        own = editor.fresh(f"{output.name}_constant")
        for node in model.graph.node:
            rename_reads(node, {output.name: own})
        constant.name = own
        model.graph.node.append(helper.make_node("Identity", [own], [output.name]))


def constant_outputs(model: onnx.ModelProto) -> frozenset[str]:
    """Return the outputs that are the same for every request, such as a detector's anchors."""
    constants = {item.name for item in model.graph.initializer}
    made = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Identity" and node.input[0] in constants
    }
    return frozenset(item.name for item in model.graph.output) & (made | constants)


def remove_unused(model: onnx.ModelProto) -> None:
    """Drop nodes whose results nobody reads, and constants likewise."""
    graph = model.graph
    wanted = {item.name for item in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(name for name in node.input if name)
            wanted.update(body_reads(node))
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
        del graph.node[:]
        graph.node.extend(nodes)
    initializers = [item for item in graph.initializer if item.name in wanted]
    if len(initializers) < len(graph.initializer):
        kept_items = [TensorProto.FromString(item.SerializeToString()) for item in initializers]
        del graph.initializer[:]
        graph.initializer.extend(kept_items)


def _tensor(node: onnx.NodeProto) -> TensorProto | None:
    item = node.attribute[0]
    if item.name == "value":
        return TensorProto.FromString(item.t.SerializeToString())
    if item.name in _SCALARS:
        values = helper.get_attribute_value(item)
        return numpy_helper.from_array(np.asarray(values, _SCALARS[item.name]))
    if item.name == "sparse_value":
        return _dense(item.sparse_tensor, node.output[0])
    return None  # texts stay nodes


def _dense(sparse: onnx.SparseTensorProto, name: str) -> TensorProto:
    """Return a sparse tensor with its zeros; indices are places or coordinates."""
    values = numpy_helper.to_array(sparse.values)
    indices, shape = numpy_helper.to_array(sparse.indices), tuple(sparse.dims)
    dense = np.zeros(shape, values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return numpy_helper.from_array(dense, name)


def _follows(node: onnx.NodeProto, known: set[str]) -> bool:
    if node.op_type in DRAWING | _QUANTIZED or not node.input:
        return False
    bodies = any(item.type == onnx.AttributeProto.GRAPH for item in node.attribute)
    return not bodies and all(name in known for name in node.input if name)


def _computed(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> dict[str, TensorProto]:
    """Return what these nodes make, without what would be much larger than what it is made of."""
    makers = {name: node for node in nodes for name in node.output if name}
    used = {name for node in nodes for name in node.input}
    constants = [item for item in model.graph.initializer if item.name in used]
    outputs = [helper.make_empty_tensor_value_info(name) for name in makers]
    small = helper.make_graph(nodes, "constants", [], outputs, constants)
    alone = helper.make_model(small, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        arrays = open_target("onnxruntime-cpu").load(alone.SerializeToString()).run({})
    except BadInput as exc:
        raise BadInput(
            f"source: the constants of the graph cannot be computed ({exc}): export it again"
        ) from exc
    sizes = {item.name: int(np.prod(item.dims)) for item in constants}
    constant = constants_for(model)
    values: dict[str, TensorProto] = {}
    for name, array in arrays.items():
        made_of = sum(sizes.get(source, 0) for source in makers[name].input)
        sizes[name] = made_of if array.size - made_of > LARGEST_GROWTH else array.size
        if array.size - made_of <= LARGEST_GROWTH and array.dtype != object:
            values[name] = constant(array, name)
    return {
        name: value
        for name, value in values.items()
        if all(other in values for other in makers[name].output if other)
    }


def _take_branch(editor: GraphEditor, place: int) -> None:
    node = editor.graph.node[place]
    taken = bool(editor.value(node.input[0]).item())
    branch = attributes(node)["then_branch" if taken else "else_branch"]
    if not isinstance(branch, onnx.GraphProto):
        raise TypeError(type(branch))
    names = {item.name: editor.fresh(item.name) for item in branch.initializer}
    for inner in branch.node:
        names.update({name: editor.fresh(name) for name in inner.output if name})
    for item in branch.initializer:
        item.name = names[item.name]
        editor.graph.initializer.append(item)
    for inner in branch.node:
        rename_reads(inner, names)
        inner.output[:] = [names.get(name, name) for name in inner.output]
    handed = [
        helper.make_node("Identity", [names.get(item.name, item.name)], [output])
        for item, output in zip(branch.output, node.output, strict=True)
    ]
    editor.rewrite({place: [*branch.node, *handed]})
