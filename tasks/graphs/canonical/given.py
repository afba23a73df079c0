"""What a spec knows of inputs beyond the graph: sizes that are fixed, and values never others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from infra.errors import BadInput

Value = bool | int | float | Sequence[bool | int | float]


def fix_sizes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Write the numbers of these shapes into inputs that leave the sizes open.

    Args:
        model: A graph; it is changed.
        shapes: Input name -> axes, a name where any size goes. What does not fit is left alone.
    """
    for item in model.graph.input:
        dims = item.type.tensor_type.shape.dim
        given = shapes.get(item.name, ())
        if len(given) != len(dims):
            continue
        for dim, size in zip(dims, given, strict=True):
            if isinstance(size, int) and dim.dim_value <= 0:
                dim.dim_value = size


def fixed_values(
    model: onnx.ModelProto, values: Mapping[str, Value]
) -> dict[str, NDArray[np.generic]]:
    """Return inputs that always have one value, in the type and shape that the graph declares.

    One number is taken for every place of the input.

    Raises:
        BadInput: The graph has no such input, or the value does not fit it.
    """
    inputs = {item.name: item.type.tensor_type for item in model.graph.input}
    fixed = {}
    for name, value in values.items():
        if name not in inputs:
            raise BadInput(f"input.tensors names {name}, and the graph reads {', '.join(inputs)}")
        sizes = [dim.dim_value for dim in inputs[name].shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].elem_type)
        given = np.asarray(value)
        if not all(sizes) or given.size not in (1, int(np.prod(sizes))):
            raise BadInput(
                f"input.tensors.{name}.value has {given.size} numbers, and the graph reads "
                f"{[size or '?' for size in sizes]}: give one, or as many, and sizes in shape"
            )
        filled = np.full(sizes, given) if given.size == 1 else given.reshape(sizes)
        fixed[name] = filled.astype(dtype)
    return fixed


def fix_values(model: onnx.ModelProto, fixed: Mapping[str, NDArray[np.generic]]) -> None:
    """Turn inputs that always have one value into constants."""
    kept = [item for item in model.graph.input if item.name not in fixed]
    if len(kept) == len(model.graph.input):
        return
    inputs = [onnx.ValueInfoProto.FromString(item.SerializeToString()) for item in kept]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    listed = {item.name for item in model.graph.initializer}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in fixed.items() if name not in listed
    )
    model.ir_version = max(model.ir_version, 4)  # earlier ones want constants among the inputs
