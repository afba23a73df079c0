"""Which values of a tensor its readers tell apart: what lies beyond may be clipped.

HardSwish makes 0 of everything up to -3, so that a quantizer before it needs no room below. The
networks that have it (MobileNetV3 and what descends from it) reach far below: half of the levels
went to values that end as 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Interval = tuple[float, float]
EVERYTHING: Interval = (-math.inf, math.inf)
_HARD_SWISH_ZERO = -3.0  # ONNX: x * max(0, min(1, x / 6 + 1 / 2))


def distinguished_values(model: onnx.ModelProto) -> Mapping[str, Interval]:
    """Return tensor -> the interval beyond whose ends all values are one to its readers.

    Only tensors whose interval has an end are there; what a graph returns, or a branch reads, has
    none. HardSwish and HardSigmoid may be spelled as operators or in the arithmetic that exporters
    write: x * clip(x + 3, 0, 6) / 6.
    """
    return _Reading(model.graph).intervals()


class _Reading:
    """One graph, gone over backward: what a tensor's readers tell apart follows from their own."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = _scalars(graph)
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers[name].append(node)
        self._free = {item.name for item in graph.output} | set(_captured(graph))
        self._known: dict[str, Interval] = {}

    def intervals(self) -> dict[str, Interval]:
        for node in reversed(self._graph.node):
            for name in node.output:
                self._known[name] = self._of(name)
        for item in self._graph.input:
            self._known[item.name] = self._of(item.name)
        return {name: ends for name, ends in self._known.items() if ends != EVERYTHING}

    def _of(self, name: str) -> Interval:
        readers = self._readers[name]
        if name in self._free or not readers:
            return EVERYTHING
        ends = [self._told_by(node, name) for node in readers]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def _told_by(self, node: onnx.NodeProto, name: str) -> Interval:
        """Return what one reader tells apart of the tensor that it reads once."""
        if list(node.input).count(name) != 1:
            return EVERYTHING
        if node.input[0] == name:
            saturating = self._saturating(node)
            if saturating is not None:
                return saturating
        if node.op_type == "Mul" and len(node.input) == 2:
            (other,) = (item for item in node.input if item != name)
            below = self._zero_below(other, name)
            if below is not None:
                return below, math.inf
        return self._through(node, name)

    def _saturating(self, node: onnx.NodeProto) -> Interval | None:
        """Return where an operator's first input matters; None where it may matter everywhere."""
        if node.op_type == "Relu":
            return 0.0, math.inf
        if node.op_type == "HardSwish":
            return _HARD_SWISH_ZERO, math.inf
        if node.op_type == "HardSigmoid":
            return _hard_sigmoid(node)
        return self._clip(node) if node.op_type == "Clip" else None

    def _clip(self, node: onnx.NodeProto) -> Interval | None:
        """Return the ends of a Clip; an attribute of opset 6, or an input; None where computed."""
        ends = [-math.inf, math.inf]
        for place, attribute in enumerate(("min", "max")):
            given = next((item.f for item in node.attribute if item.name == attribute), None)
            name = node.input[place + 1] if len(node.input) > place + 1 else ""
            if name and name not in self._constants:
                return None
            given = float(self._constants[name]) if name else given
            ends[place] = ends[place] if given is None else given
        return ends[0], ends[1]

    def _through(self, node: onnx.NodeProto, name: str) -> Interval:
        """Return what is told apart behind a constant that is added or multiplied."""
        low, high = self._known.get(node.output[0], EVERYTHING) if node.output else EVERYTHING
        step = self._step(node)
        if step is None or node.input[step[0]] != name:
            return EVERYTHING
        _, factor, offset = step
        return (low - offset) / factor, (high - offset) / factor

    def _step(self, node: onnx.NodeProto) -> tuple[int, float, float] | None:
        """Return (place, factor, offset) of a node that makes factor * input + offset.

        The factor is positive; None: the node is another.
        """
        if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.input) != 2:
            return None
        constants = [place for place, item in enumerate(node.input) if item in self._constants]
        if len(constants) != 1 or (node.op_type in ("Sub", "Div") and constants != [1]):
            return None
        value, place = float(self._constants[node.input[constants[0]]]), 1 - constants[0]
        if node.op_type in ("Add", "Sub"):
            return place, 1.0, value if node.op_type == "Add" else -value
        if not value > 0:
            return None
        return place, value if node.op_type == "Mul" else 1 / value, 0.0

    def _zero_below(self, gate: str, name: str) -> float | None:
        """Return up to where a gate that is computed from a tensor alone is 0; None: no gate."""
        node = self._makers.get(gate)
        while node is not None:
            step = self._step(node)
            if step is not None:
                if step[2]:  # an offset makes another value of 0
                    return None
                node = self._makers.get(node.input[step[0]])
                continue
            ends = self._saturating(node)
            if ends is None or not math.isfinite(ends[0]):
                return None
            if node.op_type == "Clip" and ends[0] != 0:
                return None
            if node.input[0] == name:
                return ends[0]
            return self._shifted(node.input[0], name, ends[0])
        return None

    def _shifted(self, inner: str, name: str, end: float) -> float | None:
        """Return the end in terms of a tensor to which a constant is added before."""
        node = self._makers.get(inner)
        step = self._step(node) if node is not None else None
        if node is None or step is None or node.input[step[0]] != name:
            return None
        return (end - step[2]) / step[1]


def _hard_sigmoid(node: onnx.NodeProto) -> Interval | None:
    values = {item.name: item.f for item in node.attribute}
    alpha, beta = values.get("alpha", 0.2), values.get("beta", 0.5)
    return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 else None


def _scalars(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """Return the constants of one number by name."""
    return {
        item.name: numpy_helper.to_array(item).reshape(())
        for item in graph.initializer
        if int(np.prod(item.dims)) == 1
        and item.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield what branches and loops read from outside."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                for deeper in inner.node:
                    yield from deeper.input
                yield from _captured(inner)
                yield from (item.name for item in inner.output)
