"""The form in which ONNX Runtime computes whole regions in integers.

A quantizer beside a tensor (`tasks.graphs.integer_regions`) becomes what its readers read. What is
made of the same quantized values by one positive factor is another scale of them.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tasks.graphs.integer_regions import (
    OPERATORS,
    SUFFIX,
    Kind,
    marked_floats,
    scalar_factor,
    scalars,
    unused_results,
)
from tasks.graphs.weights import constant_values
from tasks.numerics.formats import SMALLEST

_LEVELS = 255
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_HARD = ("HardSigmoid", "HardSwish")


def in_integers(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its results' quantizers in use: U8, behind what makes each tensor.

    A site's own quantizer of such a tensor is dropped. Raises nothing: a graph without results
    comes back as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    _drop_results(copy.graph, unused_results(qdq))
    rewriter = _Rewriter(copy.graph, marked_floats(qdq))
    if rewriter.has_results or marked_floats(qdq):
        nodes = [made for node in copy.graph.node for made in rewriter.rewritten(node)]
        del copy.graph.node[:]
        copy.graph.node.extend(nodes)
        _drop_unread(copy.graph)
    return copy


def without_results(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph without the quantizers that only another target reads."""
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    nodes = [node for node in copy.graph.node if not _is_result(node)]
    if len(nodes) < len(copy.graph.node):
        del copy.graph.node[:]
        copy.graph.node.extend(nodes)
        _drop_unread(copy.graph)
    return copy


def _drop_results(graph: onnx.GraphProto, tensors: Collection[str]) -> None:
    kept = [node for node in graph.node if not (_is_result(node) and node.input[0] in tensors)]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(kept)


def _is_result(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "QuantizeLinear" and node.name.endswith(f"{SUFFIX}.quantize"))


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Drop quantizers and constants that nobody reads: the runtime would compute them."""
    read = {item.name for item in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if node.op_type not in _QUANTIZERS or read.intersection(node.output):
            nodes.append(node)
            read.update(node.input)
    del graph.node[:]
    graph.node.extend(nodes[::-1])
    read = {name for node in graph.node for name in node.input}
    read |= {item.name for item in graph.output}
    kept = [item for item in graph.initializer if item.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


class _Rewriter:
    """Goes over the nodes once, and remembers what stands for each tensor."""

    def __init__(self, graph: onnx.GraphProto, floats: Collection[str]) -> None:
        self._graph = graph
        self._floats = floats
        self._constants = scalars(graph)
        self._values = {item.name: item for item in graph.initializer}
        self._results = {
            node.input[0]: (node.output[0], node.input[1], node.input[2])
            for node in graph.node
            if _is_result(node)
        }
        self._outputs = {item.name for item in graph.output}
        self._absorbed = {
            node.input[0]: node.output[0]
            for node in graph.node
            if OPERATORS.get(node.op_type) is Kind.ABSORBED
        }
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._superfluous = self._quantizers_of_floats()
        self._to_sites = self._moved_to_sites()
        self._levels: dict[str, tuple[str, str, str]] = {}  # tensor -> levels, scale, zero-point
        self._restored: dict[str, str] = {}  # tensor -> its values, restored
        self._in_integers: set[str] = set()  # made by nodes of a region: all read the levels
        self._restored_floats: dict[str, str] = {}  # a site's that nobody quantizes -> the tensor
        self._dropped: dict[str, str] = {}  # a site's own dequantized tensor -> the tensor

    @property
    def has_results(self) -> bool:
        """Whether any tensor has a quantizer of this form."""
        return bool(self._results)

    def rewritten(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return what stands for a node."""
        if _is_result(node):
            return [node, *self._restore(node.input[0], self._results[node.input[0]])]
        if self._belongs_to_a_site(node):
            return []
        for place, name in enumerate(node.input):
            if name in self._dropped:
                node.input[place] = self._restored[self._dropped[name]]
            elif name in self._restored_floats:
                node.input[place] = self._restored_floats[name]
        if self._is_scaled(node):
            return self._scaled(node)
        if self._is_member(node):
            return list(self._member(node))
        if node.output and node.output[0] in self._to_sites and node.input[0] in self._in_integers:
            return self._moved(node)
        for place, name in enumerate(node.input):
            if name in self._in_integers:
                node.input[place] = self._restored[name]
        return [node]

    def _quantizers_of_floats(self) -> set[str]:
        """Return what sites' quantizers make that only convolutions in floats would read."""
        return {
            node.output[0]
            for node in self._graph.node
            if node.op_type == "QuantizeLinear"
            and not _is_result(node)
            and all(
                reader.op_type == "Conv"
                and (reader.name in self._floats or not self._ends_in_levels(reader))
                for restoring in self._readers.get(node.output[0], [])
                for reader in self._readers.get(restoring.output[0], [])
            )
        }

    def _moved_to_sites(self) -> set[str]:
        """Return what moves make that only sites' quantizers read, or moves of this kind."""
        moved: set[str] = set()
        for node in reversed(self._graph.node):
            if OPERATORS.get(node.op_type) is not Kind.MOVE or node.output[0] in self._outputs:
                continue
            behind = self._readers.get(node.output[0], [])
            if behind and all(
                reader.op_type == "QuantizeLinear" or reader.output[0] in moved for reader in behind
            ):
                moved.add(node.output[0])
        return moved - set(self._results)

    def _moved(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return a move with the levels of what it reads: a site's own would round them again."""
        source, made = node.input[0], str(node.output[0])
        _, scale, zero_point = self._levels[source]
        node.input[0] = self._restored[source]
        self._in_integers.add(made)
        levels = (f"{made}{SUFFIX}.quantized", scale, zero_point)
        quantize = helper.make_node(
            "QuantizeLinear", [made, *levels[1:]], [levels[0]], f"{made}{SUFFIX}.quantize"
        )
        return [node, quantize, *self._restore(made, levels)]

    def _belongs_to_a_site(self, node: onnx.NodeProto) -> bool:
        """Whether a site's Q/DQ is superseded by the quantizer of its tensor."""
        quantized = node.input[0] in self._results or node.input[0] in self._restored
        if (
            node.op_type == "QuantizeLinear"
            and node.output[0] in self._superfluous
            and not quantized
        ):
            self._restored_floats[node.output[0]] = node.input[0]
            return True
        if node.op_type == "DequantizeLinear" and node.input[0] in self._restored_floats:
            self._restored_floats[node.output[0]] = self._restored_floats[node.input[0]]
            return True
        if node.op_type == "QuantizeLinear" and quantized:
            self._dropped[node.output[0]] = node.input[0]
            return True
        if node.op_type == "DequantizeLinear" and node.input[0] in self._dropped:
            self._dropped[node.output[0]] = self._dropped[node.input[0]]
            return True
        return False

    def _restore(self, tensor: str, levels: tuple[str, str, str]) -> list[onnx.NodeProto]:
        name = f"{tensor}{SUFFIX}"
        self._levels[tensor], self._restored[tensor] = levels, f"{name}.dequantized"
        return [
            helper.make_node(
                "DequantizeLinear", list(levels), [f"{name}.dequantized"], f"{name}.dequantize"
            )
        ]

    def _is_scaled(self, node: onnx.NodeProto) -> bool:
        if not scalar_factor(node, self._constants):
            return False
        source = next(name for name in node.input if name not in self._constants)
        made = node.output[0]
        return (
            source in self._in_integers
            and made not in self._results
            and made not in self._outputs
            and made not in self._absorbed
        )

    def _scaled(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the same levels with another scale."""
        source = next(name for name in node.input if name not in self._constants)
        made = str(node.output[0])
        self._in_integers.add(made)
        return self._rescaled(source, made, scalar_factor(node, self._constants))

    def _rescaled(self, source: str, made: str, factor: float) -> list[onnx.NodeProto]:
        levels, scale, zero_point = self._levels[source]
        scaled = constant_values(self._values[scale]) * np.float32(factor)
        name = self._constant(f"{made}{SUFFIX}.scale", np.asarray(scaled, np.float32))
        return self._restore(made, (levels, name, zero_point))

    def _is_member(self, node: onnx.NodeProto) -> bool:
        kind = OPERATORS.get(node.op_type)
        if kind is None or kind is Kind.ABSORBED or not self._ends_in_levels(node):
            return False
        if kind is Kind.LAYER:
            quantized = node.input[1] not in self._values and node.name not in self._floats
            return quantized and node.input[0] in self._restored.values()
        read = [node.input[0]] if kind is Kind.MOVE else self._dynamic(node)
        return bool(read) and all(name in self._restored for name in read)

    def _ends_in_levels(self, node: onnx.NodeProto) -> bool:
        made = node.output[0]
        return made in self._results or self._absorbed.get(made) in self._results

    def _dynamic(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.input if name and name not in self._constants]

    def _member(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return a node that computes in integers, behind the quantizers of its constants."""
        made = node.output[0]
        self._in_integers.add(made if made in self._results else self._absorbed[made])
        if node.op_type in _HARD:
            return self._hard(node)
        restoring: list[onnx.NodeProto] = []
        for place, name in enumerate(node.input):
            if name in self._restored:
                node.input[place] = self._restored[name]
            elif OPERATORS[node.op_type] is Kind.ELEMENTWISE and name in self._constants:
                own = f"{node.output[0]}{SUFFIX}.constant{place}"
                value = constant_values(self._values[name])
                restoring.append(self._restored_constant(own, value))
                node.input[place] = f"{own}.dequantized"
        return [*restoring, node]

    def _hard(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return max(0, min(1, alpha x + beta)), and its product with x where that is asked for.

        The quantizer behind the sum cuts at 0 and 1.
        """
        source, made = node.input[0], node.output[0]
        options = {item.name: item.f for item in node.attribute}
        swish = node.op_type == "HardSwish"
        alpha, beta = (
            (1 / 6, 0.5) if swish else (options.get("alpha", 0.2), options.get("beta", 0.5))
        )
        gate = f"{made}{SUFFIX}.gate"
        nodes = self._rescaled(source, f"{gate}.slope", alpha)
        nodes.append(self._restored_constant(f"{gate}.offset", np.asarray(beta, np.float32)))
        summed = f"{gate}.sum" if swish else made
        terms = [self._restored[f"{gate}.slope"], f"{gate}.offset.dequantized"]
        nodes.append(helper.make_node("Add", terms, [summed], f"{node.name}.gate"))
        if swish:
            scale = self._constant(f"{gate}.scale", np.asarray(1 / _LEVELS, np.float32))
            zero_point = self._constant(f"{gate}.zero_point", np.asarray(0, np.uint8))
            levels = (f"{gate}.quantized", scale, zero_point)
            nodes += [
                helper.make_node(
                    "QuantizeLinear", [summed, *levels[1:]], [levels[0]], f"{gate}.quantize"
                ),
                *self._restore(gate, levels),
                helper.make_node(
                    "Mul", [self._restored[source], self._restored[gate]], [made], node.name
                ),
            ]
        return nodes

    def _restored_constant(self, name: str, value: NDArray[np.generic]) -> onnx.NodeProto:
        """Store a constant as U8, zero among its values, and return the node that restores it."""
        low, high = float(min(value.min(), 0)), float(max(value.max(), 0))
        scale = np.float32(max(high - low, SMALLEST) / _LEVELS)
        zero_point = np.uint8(np.rint(-low / scale))
        shifted = np.rint(np.asarray(value, np.float32) / scale) + zero_point
        levels = np.clip(shifted, 0, _LEVELS).astype(np.uint8)
        parts = [
            self._constant(f"{name}.{part}", stored)
            for part, stored in (
                ("quantized", levels),
                ("scale", np.asarray(scale)),
                ("zero_point", np.asarray(zero_point)),
            )
        ]
        return helper.make_node(
            "DequantizeLinear", parts, [f"{name}.dequantized"], f"{name}.dequantize"
        )

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        item = numpy_helper.from_array(value, name)
        self._graph.initializer.append(item)
        self._values[name] = item
        return name
