"""What a served graph takes and returns, and whether requests may share a run of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.errors import BadInput
from infra.gateway.wire.datatypes import BYTES, datatype_of
from infra.weights.outline import outline

_MIXES = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Operators whose scale comes of all rows at once: a neighbour would change one's answer."""


@dataclass(frozen=True, slots=True)
class TensorSignature:
    """One input or output."""

    name: str
    datatype: str  # the Open Inference Protocol's
    shape: tuple[int, ...]  # -1: any size

    def check(self, values: NDArray[Any]) -> None:
        """Raise `BadInput` for another datatype or shape."""
        datatype = datatype_of(values.dtype)
        if datatype != self.datatype:
            raise BadInput(f"the input {self.name} is {datatype}: the model reads {self.datatype}")
        fits = len(values.shape) == len(self.shape) and all(
            wanted in (-1, size) for size, wanted in zip(values.shape, self.shape, strict=True)
        )
        if not fits:
            raise BadInput(
                f"the input {self.name} has shape {list(values.shape)}: the model reads "
                f"{list(self.shape)}"
            )


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """The inputs and outputs of a graph."""

    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    shared: bool  # whether rows of several requests may go through one run
    mixes: bool = False  # whether each row's answer depends on the rows beside it

    def check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Raise `BadInput` for a request that the graph does not read, or without a row."""
        wanted = {tensor.name for tensor in self.inputs}
        if set(feeds) != wanted:
            raise BadInput(
                f"the inputs are {_listed(feeds)}: the model reads {_listed(sorted(wanted))}"
            )
        for tensor in self.inputs:
            tensor.check(feeds[tensor.name])
        if feeds and all(values.shape[:1] == (0,) for values in feeds.values()):
            raise BadInput("the inputs have no row: send one or more")

    def require_outputs(self, wanted: Iterable[str]) -> None:
        """Raise `BadInput` for an output that the graph does not return."""
        names = [tensor.name for tensor in self.outputs]
        unknown = next((name for name in wanted if name not in names), None)
        if unknown is not None:
            raise BadInput(f"there is no output {unknown}: the model has {', '.join(names)}")


def read_signature(graph: bytes) -> GraphSignature:
    """Read what an ONNX graph declares.

    Requests share a run where every tensor begins with the same named dimension, the batch, and no
    operator draws a scale from all rows.
    """
    model = outline(graph)
    weights = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in weights]
    named = {_first_dimension(item) for item in (*inputs, *model.graph.output)}
    functions = chain.from_iterable(function.node for function in model.functions)
    mixes = not _MIXES.isdisjoint(_operators(chain(model.graph.node, functions)))
    batched = len(named) == 1 and "" not in named
    return GraphSignature(
        tuple(_tensor(item) for item in inputs),
        tuple(_tensor(item) for item in model.graph.output),
        batched and not mixes,
        batched and mixes,
    )


def _operators(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Yield the operators of some nodes and of the branches and loops in them."""
    for node in nodes:
        yield node.op_type
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _operators(graph.node)


def _tensor(item: onnx.ValueInfoProto) -> TensorSignature:
    declared = item.type.tensor_type
    if declared.elem_type == onnx.TensorProto.STRING:
        datatype = BYTES
    else:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type))
        datatype = datatype_of(dtype)
    shape = tuple(
        size.dim_value if size.WhichOneof("value") == "dim_value" else -1
        for size in declared.shape.dim
    )
    return TensorSignature(item.name, datatype, shape)


def _first_dimension(item: onnx.ValueInfoProto) -> str:
    """Return the name of a tensor's first dimension; empty where it has none."""
    dimensions = item.type.tensor_type.shape.dim
    return dimensions[0].dim_param if dimensions else ""


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(names) or "none"
