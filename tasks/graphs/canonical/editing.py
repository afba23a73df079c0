"""A graph under change: who makes a tensor, who reads it, and which names are free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.graphs.weights import constant_values, constants_like


class GraphEditor:
    """Indexes one graph, and keeps the index true while nodes and constants come and go."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self._constant = graph, constants_like(graph)
        self.constants = {item.name: item for item in graph.initializer}
        self.outputs = {item.name for item in graph.output}
        self._names = {
            *self.constants,
            *(item.name for item in graph.input),
            *(name for node in all_nodes(graph) for name in (node.name, *node.output)),
        }
        self.index()

    def index(self) -> None:
        """Read makers and readers anew from the nodes."""
        self.makers = {name: node for node in self.graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in (*node.input, *sorted(body_reads(node))):
                self.readers.setdefault(name, []).append(node)

    def fresh(self, wanted: str) -> str:
        """Return a name that nothing bears yet: the wanted one, or it with underscores."""
        while wanted in self._names:
            wanted += "_"
        self._names.add(wanted)
        return wanted

    def value(self, name: str) -> NDArray[np.generic]:
        """Return a constant's values."""
        return np.asarray(constant_values(self.constants[name]))

    def add(self, wanted: str, values: NDArray[np.generic]) -> str:
        """Add a constant; returns the name that it got."""
        name = self.fresh(wanted)
        self.graph.initializer.append(self._constant(values, name))
        self.constants[name] = self.graph.initializer[-1]
        return name

    def changed(self, name: str, values: NDArray[np.generic]) -> str:
        """Give a constant other values, under its own name where one node alone reads it."""
        if len(self.readers.get(name, [])) > 1 or name in self.outputs:
            return self.add(f"{name}_changed", values)
        self.constants[name].CopyFrom(self._constant(values, name))
        return name

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """Return the one node that reads a tensor once; None where there is another use."""
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def rewrite(self, changes: Mapping[int, Iterable[onnx.NodeProto]]) -> None:
        """Put other nodes in the places of some; `changes` is place -> what stands there now."""
        nodes = [
            standing
            for place, node in enumerate(self.graph.node)
            for standing in changes.get(place, (node,))
        ]
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(kept)
        self.index()


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds: the branches of an If, the body of a Loop."""
    for item in node.attribute:
        if item.type == onnx.AttributeProto.GRAPH:
            yield item.g
        yield from item.graphs


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, and those of the bodies in it."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from all_nodes(body)


def own_names(body: onnx.GraphProto) -> set[str]:
    """Return the tensors that a body is given, stores or makes, whatever bears the name outside."""
    given = {item.name for item in (*body.input, *body.initializer)}
    sparse = {item.values.name for item in body.sparse_initializer}
    return given | sparse | {name for node in body.node for name in node.output if name}


def body_reads(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node's bodies read and do not make."""
    names: set[str] = set()
    for body in bodies(node):
        own = own_names(body)
        for inner in body.node:
            names.update({*inner.input, *body_reads(inner)} - own)
        names.update({item.name for item in body.output} - own)
    return names - {""}


def rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node, and the bodies in it, read other tensors; `names` is old -> new."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for body in bodies(node):
        own = own_names(body)
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in body.node:
            rename_reads(inner, outer)
        for item in body.output:
            if item.name in outer:
                inner = body.node.add()
                inner.CopyFrom(onnx.helper.make_node("Identity", [outer[item.name]], [item.name]))


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """Return a node's attributes by name, as Python values."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
