"""Constants of graphs, whether their numbers lie inside or in files beside (ADR 47).

From a size on, what is registered has its large weights beside it; what is made of such a graph has
them beside it as well. So no graph in memory, and no message of protobuf, holds a model's weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from infra.settings import settings
from infra.weights.naming import is_beside, tensors_beside

SMALLEST = 1 << 12
"""Bytes; smaller constants are always inside: they are scales, gains and shapes."""

Constant = Callable[[NDArray[np.generic], str], TensorProto]
"""From numbers and a name to a constant."""


def constant_values(tensor: TensorProto) -> NDArray[Any]:
    """Return a constant's numbers, read-only; those of a file are mapped, not read."""
    if is_beside(tensor):
        return settings().weights().values(tensor)
    return np.asarray(numpy_helper.to_array(tensor))


def has_weights_beside(model: onnx.ModelProto) -> bool:
    """Return whether a graph's large weights lie in files."""
    return next(iter(tensors_beside(model)), None) is not None


def constants_for(model: onnx.ModelProto) -> Constant:
    """Return what makes constants of a model: large ones lie where the model's others do."""
    return constants_like(model.graph)


def constants_like(graph: onnx.GraphProto) -> Constant:
    """Return what makes constants of a graph: large ones lie where the graph's others do."""
    return large_beside if any(is_beside(item) for item in graph.initializer) else inside


def inside(numbers: NDArray[np.generic], name: str) -> TensorProto:
    """Return a constant that holds its numbers."""
    numbers = np.asarray(numbers)
    return numpy_helper.from_array(np.ascontiguousarray(numbers).reshape(numbers.shape), name)


def large_beside(numbers: NDArray[np.generic], name: str) -> TensorProto:
    """Return a constant whose numbers are kept in a file, where they are many."""
    if np.asarray(numbers).nbytes < SMALLEST:
        return inside(numbers, name)
    return settings().weights().tensor(numbers, name)


def are_large(size: int) -> bool:
    """Return whether weights of so many bytes lie beside their graph."""
    return size >= settings().weights_beside_mib * (1 << 20)
