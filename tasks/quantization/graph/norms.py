"""Where a graph normalises: fused operators, and the arithmetic that exports write instead.

LayerNorm and RMSNorm (Zhang and Sennrich, 2019) divide by the root of a mean of squares and
multiply by a gain. Exports of Llama, Qwen and Mistral write RMSNorm as Pow, ReduceMean, Add, Sqrt,
Reciprocal, Mul and Mul.
"""

from collections.abc import Mapping

import onnx

_FUSED = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_OVER_A_ROOT = {"Mul": ("Reciprocal",), "Div": ("Sqrt",)}
"""What x is multiplied by, or divided by."""

Makers = Mapping[str, onnx.NodeProto]


def norm_results(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return tensors that norms return, gain and shift included, in graph order."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {item.name for item in model.graph.initializer}
    shifts = _shifts(model, constants)
    results = []
    for node in model.graph.node:
        if node.op_type in _FUSED:
            results.append(node.output[0])
        elif _is_gain(node, makers, constants):
            results.append(shifts.get(node.output[0], node.output[0]))
    return tuple(results)


def _is_gain(node: onnx.NodeProto, makers: Makers, constants: set[str]) -> bool:
    """Return whether a node is a gain: a constant times x over the root of its mean square.

    The root may be of a variance.
    """
    others = [name for name in node.input if name not in constants]
    if node.op_type != "Mul" or len(others) != 1:
        return False
    scaled = _past_casts(others[0], makers)
    return scaled is not None and any(
        _is_root(name, scaled.op_type, makers) for name in scaled.input
    )


def _is_root(name: str, applied_by: str, makers: Makers) -> bool:
    """Return whether a tensor is Sqrt(Add(ReduceMean(...), epsilon)).

    Or one over it where it is a factor.
    """
    node = _past_casts(name, makers)
    if node is None or node.op_type not in _OVER_A_ROOT.get(applied_by, ()):
        return False
    root = _past_casts(node.input[0], makers) if node.op_type == "Reciprocal" else node
    if root is None or root.op_type != "Sqrt":
        return False
    above = makers.get(root.input[0])
    means = () if above is None or above.op_type != "Add" else above.input
    return any(name in makers and makers[name].op_type == "ReduceMean" for name in means)


def _past_casts(name: str, makers: Makers) -> onnx.NodeProto | None:
    """Return what makes a tensor, before it was cast.

    None: the graph's own input, or a constant.
    """
    node = makers.get(name)
    while node is not None and node.op_type == "Cast":
        node = makers.get(node.input[0])
    return node


def _shifts(model: onnx.ModelProto, constants: set[str]) -> Mapping[str, str]:
    """Return tensor -> the sum of it and a constant, where nothing else reads it."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    returned = {item.name for item in model.graph.output}
    return {
        name: nodes[0].output[0]
        for name, nodes in readers.items()
        if len(nodes) == 1
        and name not in returned
        and nodes[0].op_type == "Add"
        and constants & set(nodes[0].input)
    }
