"""Where an ONNX graph can be quantized: activation tensors that feed layers of constant weights.

Attention scores, norms and softmax have no constant weight and so are never sites: they stay in
high precision.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.graphs.weights import constant_values

OPS = ("MatMul", "Gemm", "Conv")
"""Operators that a weighted layer becomes."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One node with a constant weight."""

    name: str  # the module's own name, as far as the export kept it
    node: str
    op: str  # MatMul, Gemm or Conv
    weight: str  # initializer
    output_axis: int  # of the weight; its scales lie along this axis


@dataclass(frozen=True, slots=True)
class Site:
    """One activation tensor and the layers it feeds; they share one quantizer."""

    name: str
    tensor: str
    channel_axis: int  # of the activation
    layers: tuple[Layer, ...]

    @property
    def multiplies_rows(self) -> bool:
        """Return whether its layers are products of rows alone, each of which may have a scale."""
        return self.channel_axis == -1 and all(layer.op == "MatMul" for layer in self.layers)

    @property
    def can_smooth(self) -> bool:
        """Return whether smoothing scales can move from the activation into the weights."""
        return all(layer.op != "Conv" for layer in self.layers)


def find_sites(model: onnx.ModelProto) -> tuple[Site, ...]:
    """Return all sites in graph order, each under a name of its own.

    Raises:
        BadInput: when two nodes share a name.
    """
    graph = model.graph
    _require_names(graph)
    weights = {item.name: item for item in graph.initializer}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    readers: dict[str, list[Layer]] = {}
    for node in graph.node:
        layer = _layer(node, weights, consumers)
        if layer is not None:
            readers.setdefault(node.input[0], []).append(layer)
    names = _distinct(
        [_joint_name([layer.name for layer in layers]) for layers in readers.values()]
    )
    return tuple(
        Site(name, tensor, 1 if any(layer.op == "Conv" for layer in layers) else -1, tuple(layers))
        for name, (tensor, layers) in zip(names, readers.items(), strict=True)
    )


def layer_weight(model: onnx.ModelProto, layer: Layer) -> NDArray[np.float32]:
    """Return the layer's weight as [outputs, inputs...]: the output axis is moved to the front.

    Raises:
        BadInput: when it is not finite.
    """
    item = next(item for item in model.graph.initializer if item.name == layer.weight)
    weight: NDArray[np.float32] = constant_values(item).astype(np.float32, copy=False)
    if not np.isfinite(weight).all():
        raise BadInput(
            f"the weight of {layer.name} holds NaN or infinity: the model is broken, export it "
            "again"
        )
    return np.moveaxis(weight, layer.output_axis, 0)


def expose(model: onnx.ModelProto, sites: tuple[Site, ...]) -> onnx.ModelProto:
    """Return a copy of the model that also returns the tensor of every site."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    inputs = {item.name for item in copy.graph.input}
    for site in sites:
        if site.tensor not in present | inputs:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(site.tensor))
    return copy


def expose_alone(model: onnx.ModelProto, sites: tuple[Site, ...]) -> onnx.ModelProto:
    """Return a copy of the model that returns the tensors of the sites, and nothing else.

    A language model's logits and cache take more memory than all that is observed, and time.
    """
    copy, wanted = expose(model, sites), {site.tensor for site in sites}
    outputs = [item for item in copy.graph.output if item.name in wanted]
    kept = [onnx.ValueInfoProto.FromString(item.SerializeToString()) for item in outputs]
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    return copy


def _layer(
    node: onnx.NodeProto,
    weights: dict[str, onnx.TensorProto],
    consumers: dict[str, list[onnx.NodeProto]],
) -> Layer | None:
    if node.op_type not in OPS or len(node.input) < 2:
        return None
    weight = weights.get(node.input[1])
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT or node.input[0] in weights:
        return None
    if len(weight.dims) < 3 if node.op_type == "Conv" else len(weight.dims) != 2:
        return None  # a stack of matrices has no one axis of outputs
    if 0 in weight.dims:
        return None  # nothing is multiplied
    if node.op_type == "MatMul":
        axis = 1
    elif node.op_type == "Gemm":
        if _attribute(node, "transA"):
            return None
        axis = 0 if _attribute(node, "transB") else 1
    else:
        axis = 0
    return Layer(
        _module_name(node, weights, consumers), node.name, node.op_type, node.input[1], axis
    )


def _require_names(graph: onnx.GraphProto) -> None:
    """Refuse nodes of one name: layers are told apart by it.

    `tasks.models.export` gives every node one.
    """
    names = [node.name for node in graph.node if node.op_type in OPS]
    if len(set(names)) < len(names) or "" in names:
        raise BadInput(
            "the graph has layers without a name, or two of one name: register the model again"
        )


def _distinct(names: list[str]) -> list[str]:
    """Return the names with a number at those that come again: `albert.query#2`.

    A module that runs twice has one name and two sites.
    """
    met: Counter[str] = Counter()
    result = []
    for name in names:
        met[name] += 1
        result.append(name if met[name] == 1 else f"{name}#{met[name]}")
    return result


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), 0)


def _module_name(
    node: onnx.NodeProto,
    weights: dict[str, onnx.TensorProto],
    consumers: dict[str, list[onnx.NodeProto]],
) -> str:
    """Return the module's name, by the bias where the export renamed the weight.

    Exports fold a transposed weight under a made-up name, but the bias beside it keeps the
    module's.
    """
    names: list[str] = [name for name in node.input if name in weights]
    for follower in consumers.get(node.output[0], []):
        if follower.op_type == "Add":
            names += [name for name in follower.input if name in weights]
    for name in names:
        stem, _, leaf = name.rpartition(".")
        if stem and leaf in ("weight", "bias"):
            return stem
    return str(node.name)


def _joint_name(names: list[str]) -> str:
    """Join names: `a.b.query`, `a.b.key` -> `a.b.{query,key}`."""
    if len(names) == 1:
        return names[0]
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    prefix = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    leaves = [".".join(name.split(".")[len(prefix) :]) for name in names]
    return ".".join([*prefix, "{" + ",".join(leaves) + "}"])
