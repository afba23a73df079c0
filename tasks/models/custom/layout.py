"""What a graph with inputs of its own reads, from the graph, the spec and the shipped data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from infra.errors import BadInput
from tasks.preprocess.prepare import Preparation, digest_of, is_raw
from tasks.records import Payload
from tasks.specs.custom import TensorSpec
from tasks.specs.spec import InputSpec
from tasks.specs.tensors import Axis, Dimension, RecordLayout, TensorLayout

GROWTH = 2
"""How far beyond the largest shipped input a dimension reaches where the spec is silent."""
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
    unknown = sorted(set(rules.tensors) - set(inputs))
    if unknown:
        raise BadInput(f"input.tensors names {unknown[0]}, and the graph reads {', '.join(inputs)}")
    axes = {
        name: _axes(name, value, rules.tensors.get(name, TensorSpec()))
        for name, value in inputs.items()
    }
    batch = _fixed_batch(axes)
    tensors = {}
    for name, value in inputs.items():
        batched = bool(axes[name]) and (
            isinstance(axes[name][0], str) or (batch is not None and len(axes[name]) > 1)
        )
        dtype = rules.tensors.get(name, TensorSpec()).dtype or _dtype(name, value)
        tensors[name] = TensorLayout(dtype, axes[name][1:] if batched else axes[name], batched)
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
    rules_of_raw = rules.preprocess
    unsized = RecordLayout(tensors, {}, batch, rules_of_raw)
    met = _sizes(tensors, _prepared(unsized, payloads, tokenizer))
    lacking = sorted(named - set(given) - set(met))
    if lacking:
        raise BadInput(
            f"nothing tells the sizes of {lacking[0]}: give input.dimensions.{lacking[0]} "
            "as [min, common, max]"
        )
    guessed = {name: _guess(met[name]) for name in named - set(given)}
    digest = "" if rules_of_raw is None else digest_of(rules_of_raw)
    return RecordLayout(tensors, given | guessed, batch, rules_of_raw, digest)


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


def _fixed_batch(axes: Mapping[str, tuple[Axis, ...]]) -> int | None:
    """Return the first axis that all inputs of two axes and more share, where it is a number."""
    first = {shape[0] for shape in axes.values() if len(shape) > 1}
    (size,) = first if len(first) == 1 else (None,)
    return size if isinstance(size, int) else None


def _dtype(name: str, value: onnx.TypeProto.Tensor) -> str:
    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.elem_type)))
    except (KeyError, TypeError) as exc:
        raise BadInput(f"the graph's input {name} has a type that no tensor has: {exc}") from exc


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
