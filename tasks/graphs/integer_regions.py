"""Which operators a runtime computes in integers, and the tensors that need a quantizer for it.

TensorRT takes quantizers on what its layers read. ONNX Runtime computes a convolution in integers
only where what it makes is quantized, too, and with it the additions, products, concatenations and
pools between convolutions. `tests/contract/test_integer_regions.py` holds the table against the
profile of the runtime itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.graphs.sites import Site
from tasks.graphs.weights import constant_values

_MARK = "requant.floats"


class Kind(StrEnum):
    """How a runtime computes an operator in integers."""

    LAYER = "layer"  # with a constant weight; a region begins with it
    ELEMENTWISE = "elementwise"  # what it reads and what it makes have scales of their own
    MOVE = "move"  # what it makes has the scale of what it reads
    ABSORBED = "absorbed"  # the quantizer behind it cuts as it does


OPERATORS: Mapping[str, Kind] = {
    "Conv": Kind.LAYER,
    "Add": Kind.ELEMENTWISE,
    "Mul": Kind.ELEMENTWISE,
    "Concat": Kind.ELEMENTWISE,
    "AveragePool": Kind.ELEMENTWISE,
    "GlobalAveragePool": Kind.ELEMENTWISE,
    "Sigmoid": Kind.ELEMENTWISE,
    "LeakyRelu": Kind.ELEMENTWISE,
    "HardSigmoid": Kind.ELEMENTWISE,
    "HardSwish": Kind.ELEMENTWISE,
    "MaxPool": Kind.MOVE,
    "Resize": Kind.MOVE,
    "Transpose": Kind.MOVE,
    "Reshape": Kind.MOVE,
    "Squeeze": Kind.MOVE,
    "Unsqueeze": Kind.MOVE,
    "Flatten": Kind.MOVE,
    "Slice": Kind.MOVE,
    "DepthToSpace": Kind.MOVE,
    "Relu": Kind.ABSORBED,
    "Clip": Kind.ABSORBED,
}
"""What ONNX Runtime's CPU provider computes in integers between quantizers."""

SUFFIX = ".result"
"""What is added to a tensor's name where its quantizer is for one runtime alone."""


@dataclass(frozen=True, slots=True)
class IntegerRegion:
    """The part of a graph that a runtime can compute in integers."""

    nodes: frozenset[str]
    results: tuple[str, ...]  # tensors that need a quantizer, in graph order
    moved: Mapping[str, str]  # result -> the tensor whose quantizer it shares


def result_sites(model: onnx.ModelProto, sites: Collection[Site]) -> tuple[Site, ...]:
    """Return every tensor that could need a quantizer for one runtime, as a site without layers."""
    layers = {layer.node for site in sites for layer in site.layers if layer.op == "Conv"}
    region = find_region(model, layers)
    return tuple(Site(f"{name}{SUFFIX}", name, 1, ()) for name in region.results)


def find_region(model: onnx.ModelProto, layers: Collection[str]) -> IntegerRegion:
    """Return what can be computed in integers around the layers of these nodes."""
    finder = _Finder(model.graph)
    for node in model.graph.node:
        finder.visit(node, layers)
    finder.prune()
    return finder.region()


def scalar_factor(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> float:
    """Return the positive constant by which a node multiplies its first dynamic input, or 0.

    Such a product needs no arithmetic: it is another scale of the same quantized values.
    """
    if node.op_type not in ("Mul", "Div"):
        return 0.0
    values = [constants[name] for name in node.input if name in constants]
    if (
        len(values) != 1
        or values[0].size != 1
        or (node.op_type == "Div" and node.input[0] in constants)
    ):
        return 0.0
    factor = float(values[0].reshape(()))
    if not (np.isfinite(factor) and factor > 0):
        return 0.0
    return factor if node.op_type == "Mul" else 1 / factor


def scalars(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """Return the float constants of a graph by name; large ones are not read."""
    return {
        item.name: constant_values(item)
        if int(np.prod(item.dims)) == 1
        else np.zeros(item.dims, np.float32)
        for item in graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT
    }


class _Finder:
    """Goes over a graph once, forward; then takes back what leads nowhere."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = scalars(graph)
        self._readers = Counter(name for node in graph.node for name in node.input)
        self._outputs = {item.name for item in graph.output}
        self._absorbers = {
            node.input[0]: node
            for node in graph.node
            if OPERATORS.get(node.op_type) is Kind.ABSORBED
            and all(name in self._constants or not name for name in node.input[1:])
        }
        self._quantized: set[str] = set()
        self._members: list[onnx.NodeProto] = []

    def visit(self, node: onnx.NodeProto, layers: Collection[str]) -> None:
        """Take the node in where it reads what is in integers, and makes no output of the graph."""
        made = self.made_by(node)
        kind = OPERATORS.get(node.op_type)
        if node.op_type == "Div" and scalar_factor(node, self._constants):
            kind = Kind.ELEMENTWISE
        if made in self._outputs or kind is None or kind is Kind.ABSORBED:
            return
        if kind is Kind.LAYER:
            joins = node.name in layers
        else:
            joins = all(name in self._quantized for name in self.read_by(node))
        if joins:
            self._members.append(node)
            self._quantized.add(made)

    def prune(self) -> None:
        """Take back what no member reads: it would only be quantized and restored."""
        read = set()
        kept = []
        for node in reversed(self._members):
            if OPERATORS.get(node.op_type) is Kind.LAYER or self.made_by(node) in read:
                kept.append(node)
                read.update(self.read_by(node))
        self._members = kept[::-1]

    def region(self) -> IntegerRegion:
        """Return what was found."""
        results: dict[str, None] = {}
        moved, free = {}, set()
        for node in self._members:
            made = self.made_by(node)
            if self._is_scaled(node):
                free.add(made)
                continue
            results.update(dict.fromkeys(name for name in self.read_by(node) if name not in free))
            if OPERATORS[node.op_type] is Kind.MOVE:
                moved[made] = node.input[0]
            results[made] = None
        return IntegerRegion(frozenset(node.name for node in self._members), tuple(results), moved)

    def made_by(self, node: onnx.NodeProto) -> str:
        """Return the tensor whose quantizer ends the node: behind a Relu that it absorbs."""
        made = str(node.output[0])
        absorber = self._absorbers.get(made)
        if absorber is None or self._readers[made] != 1 or made in self._outputs:
            return made
        return str(absorber.output[0]) if OPERATORS.get(node.op_type) is not Kind.MOVE else made

    def read_by(self, node: onnx.NodeProto) -> list[str]:
        """Return the tensors that the node reads in integers."""
        if OPERATORS.get(node.op_type) in (Kind.LAYER, Kind.MOVE):
            return [node.input[0]]
        return [name for name in node.input if name and name not in self._constants]

    def _is_scaled(self, node: onnx.NodeProto) -> bool:
        scaled = bool(scalar_factor(node, self._constants))
        return scaled and self.made_by(node) == node.output[0]


def mark_floats(
    qdq: onnx.ModelProto, names: Collection[str] = (), unused: Collection[str] = ()
) -> onnx.ModelProto:
    """Note in a graph which convolutions ONNX Runtime computes in floats; returns it.

    `unused` are tensors whose quantizers it then does not want, and another target may.
    """
    kept = [item for item in qdq.metadata_props if item.key != _MARK]
    del qdq.metadata_props[:]
    qdq.metadata_props.extend(kept)
    if names:
        note = {"nodes": sorted(names), "unused": sorted(unused)}
        qdq.metadata_props.add(key=_MARK, value=json.dumps(note))
    return qdq


def marked_floats(qdq: onnx.ModelProto) -> frozenset[str]:
    """Return the convolutions that a graph notes."""
    return frozenset(_note(qdq)["nodes"])


def unused_results(qdq: onnx.ModelProto) -> frozenset[str]:
    """Return the tensors whose quantizers ONNX Runtime does not want."""
    return frozenset(_note(qdq)["unused"])


def _note(qdq: onnx.ModelProto) -> Mapping[str, Sequence[str]]:
    notes = [item.value for item in qdq.metadata_props if item.key == _MARK]
    note: Mapping[str, Sequence[str]] = (
        json.loads(notes[0]) if notes else {"nodes": [], "unused": []}
    )
    return note
