"""What a graph with inputs of its own reads, from the graph, the spec and the shipped data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx

from infra.errors import BadInput
from tasks.preprocess.prepare import Preparation, digest_of, is_raw
from tasks.records import Payload
from tasks.specs.custom import TensorSpec
from tasks.specs.spec import InputSpec
from tasks.specs.tensors import (
    CHUNKS,
    Axis,
    Dimension,
    RecordLayout,
    StateLayout,
    TensorLayout,
)

GROWTH = 2
"""How far beyond the largest shipped input a dimension reaches where the spec is silent."""
_NO_NUMBERS = (
    "the graph's input {} is no tensor of numbers but texts, a sequence or an optional: export the "
    "graph with tensors"
)
_NAMELESS = frozenset({"", "?", "-1", "None"})


def read_record_layout(
    graph: onnx.ModelProto,
    rules: InputSpec,
    payloads: Sequence[Payload],
    tokenizer: bytes | None = None,
) -> RecordLayout:
    """Return the inputs of a graph as the spec completes them.

    A dynamic first axis is the batch; so is a fixed one that all inputs of two axes and more share.
    The sizes of a dimension that the spec does not give are those of the shipped payloads, and
    GROWTH times the largest of them.

    Raises:
        BadInput: where graph, spec and data disagree, naming the input.
    """
    inputs = graph_inputs(graph)
    unknown = sorted(set(rules.tensors) - set(inputs) - set(rules.fixed))
    if unknown:
        raise BadInput(f"input.tensors names {unknown[0]}, and the graph reads {', '.join(inputs)}")
    states = read_states(graph, rules)
    tensors, batch = _tensors(
        {name: value for name, value in inputs.items() if name not in states}, rules
    )
    if states:
        tensors = {name: replace(item, axes=(CHUNKS, *item.axes)) for name, item in tensors.items()}
    unsized = RecordLayout(tensors, {}, batch, rules.preprocess, states=states)
    sizes = _dimensions(tensors, rules, _prepared(unsized, payloads, tokenizer))
    digest = "" if rules.preprocess is None else digest_of(rules.preprocess)
    return replace(unsized, dimensions=sizes, preprocess_digest=digest)


def _tensors(
    inputs: Mapping[str, onnx.TypeProto.Tensor], rules: InputSpec
) -> tuple[dict[str, TensorLayout], int | None]:
    """Return what a request carries of each input, and the batch that the graph fixes."""
    given = {name: rules.tensors.get(name, TensorSpec()) for name in inputs}
    axes = {name: _axes(name, value, given[name]) for name, value in inputs.items()}
    batch = _fixed_batch({name: axes[name] for name in inputs if given[name].batch is not False})
    tensors = {}
    for name, value in inputs.items():
        guess = axes[name][:1] != () and (
            isinstance(axes[name][0], str) or (batch is not None and len(axes[name]) > 1)
        )
        batched = guess if given[name].batch is None else bool(given[name].batch and axes[name])
        own = axes[name][1:] if batched else axes[name]
        tensors[name] = TensorLayout(given[name].dtype or _dtype(name, value), own, batched)
    return tensors, batch


def _dimensions(
    tensors: Mapping[str, TensorLayout], rules: InputSpec, payloads: Sequence[Payload]
) -> dict[str, Dimension]:
    """Return the sizes of every named dimension: the spec's, or those of the shipped payloads."""
    named = {axis for item in tensors.values() for axis in item.axes if isinstance(axis, str)}
    given = {
        name: Dimension(size.min, size.common, size.max) for name, size in rules.dimensions.items()
    }
    strange = sorted(set(given) - named)
    if strange:
        raise BadInput(
            f"input.dimensions names {strange[0]}, and the inputs have "
            f"{', '.join(sorted(named)) or 'no dynamic dimension'}"
        )
    met = _sizes(tensors, payloads)
    lacking = sorted(named - set(given) - set(met))
    if lacking:
        raise BadInput(
            f"nothing tells the sizes of {lacking[0]}: give input.dimensions.{lacking[0]} "
            "as [min, common, max]"
        )
    return given | {name: _guess(met[name]) for name in named - set(given)}


def read_states(graph: onnx.ModelProto, rules: InputSpec) -> dict[str, StateLayout]:
    """Return the inputs that the graph's own outputs come back to.

    An axis whose size the graph leaves open is taken as 1: streams go through one by one.

    Raises:
        BadInput: The graph has no such input or output, or they cannot hold each other's values.
    """
    inputs = graph_inputs(graph)
    outputs = {item.name: item.type.tensor_type for item in graph.graph.output}
    states = {}
    for name, state in rules.states.items():
        for kind, wanted, present in (("input", name, inputs), ("output", state.output, outputs)):
            if wanted not in present:
                raise BadInput(
                    f"input.states.{name}: the graph has no {kind} {wanted}, only "
                    f"{', '.join(present)}"
                )
        shape = tuple(dim.dim_value if dim.dim_value > 0 else 1 for dim in inputs[name].shape.dim)
        initial = tuple(float(value) for value in np.atleast_1d(np.asarray(state.initial)))
        if len(initial) not in (1, prod(shape)):
            raise BadInput(
                f"input.states.{name}.initial has {len(initial)} numbers, and the state has "
                f"{prod(shape)}, in shape {list(shape)}: give one for all, or each"
            )
        states[name] = StateLayout(state.output, _dtype(name, inputs[name]), shape, initial)
    return states


def _prepared(
    layout: RecordLayout, payloads: Sequence[Payload], tokenizer: bytes | None
) -> list[Payload]:
    """Return payloads as tensors, those that users sent through the spec's steps."""
    if layout.preprocess is None:
        return list(payloads)
    preparation = Preparation(layout, tokenizer)
    return [
        preparation.record(payload) if is_raw(payload, layout) else payload for payload in payloads
    ]


def graph_inputs(graph: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Return the inputs that a caller feeds, without weights listed among them."""
    weights = {item.name for item in graph.graph.initializer}
    return {
        item.name: item.type.tensor_type for item in graph.graph.input if item.name not in weights
    }


def _axes(name: str, value: onnx.TypeProto.Tensor, rules: TensorSpec) -> tuple[Axis, ...]:
    if value.elem_type and not value.HasField("shape") and rules.shape is None:
        raise BadInput(
            f"the graph does not tell how many axes its input {name} has: give them in "
            f"input.tensors.{name}.shape, such as [batch, 3, height, width]"
        )
    empty = [place for place, dim in enumerate(value.shape.dim) if _is_empty(dim)]
    if empty:
        raise BadInput(
            f"the graph's input {name} has size 0 along axis {empty[0]}: export it with a size, or "
            "a dynamic one"
        )
    of_graph: list[Axis] = [
        item.dim_value
        if item.dim_value > 0
        else (f"{name}.{place}" if item.dim_param in _NAMELESS else item.dim_param)
        for place, item in enumerate(value.shape.dim)
    ]
    if rules.shape is None:
        return tuple(of_graph)
    fits = not value.HasField("shape") or (
        len(rules.shape) == len(of_graph)
        and all(
            isinstance(own, str) or own == given
            for own, given in zip(of_graph, rules.shape, strict=True)
        )
    )
    if not fits:
        raise BadInput(
            f"input.tensors.{name}.shape is {list(rules.shape)}, and the graph reads {of_graph}"
        )
    return rules.shape


def _is_empty(dim: onnx.TensorShapeProto.Dimension) -> bool:
    return bool(dim.HasField("dim_value")) and dim.dim_value == 0


def _fixed_batch(axes: Mapping[str, tuple[Axis, ...]]) -> int | None:
    """Return the first axis that all inputs of two axes and more share, where it is a number."""
    first = {shape[0] for shape in axes.values() if len(shape) > 1}
    (size,) = first if len(first) == 1 else (None,)
    return size if isinstance(size, int) else None


def _dtype(name: str, value: onnx.TypeProto.Tensor) -> str:
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.elem_type))
        if dtype.kind not in "biuf":
            raise BadInput(_NO_NUMBERS.format(name))
        return str(dtype)
    except (KeyError, TypeError) as exc:
        raise BadInput(_NO_NUMBERS.format(name)) from exc


def _sizes(
    tensors: Mapping[str, TensorLayout], payloads: Iterable[Payload]
) -> dict[str, list[int]]:
    sizes: dict[str, list[int]] = {}
    for payload in payloads:
        for name, layout in tensors.items():
            value = payload.get(name) if isinstance(payload, Mapping) else payload
            if not isinstance(value, np.ndarray) or value.ndim != len(layout.axes):
                continue
            for axis, size in zip(layout.axes, value.shape, strict=True):
                if isinstance(axis, str):
                    sizes.setdefault(axis, []).append(size)
    return sizes


def _guess(sizes: Sequence[int]) -> Dimension:
    return Dimension(min(sizes), sorted(sizes)[len(sizes) // 2], GROWTH * max(sizes))
