"""Inputs as inference servers log them.

These are KServe's v1 `instances`, and the Open Inference Protocol's (v2) `inputs`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.specs.tensors import PayloadShape, RecordLayout
from tasks.specs.traits import TRAITS, Task
from tasks.traffic.formats.bodies.conversation import render
from tasks.traffic.formats.raw import Bad

NUMERIC = {
    "BOOL",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
    *(f"{sign}INT{size}" for sign in ("", "U") for size in (8, 16, 32, 64)),
}
TEXT_NAMES = ("text", "prompt", "input", "query", "question", "sentence", "text_input", "inputs")
CONTEXT = ("tenant", "domain", "language", "label")
"""Fields that a request may bring beside its input."""

Row = dict[str, object]
"""The fields of one input: text, or tensor with shape."""


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """One input of the Open Inference Protocol."""

    name: str
    datatype: str  # FP32, INT64, BYTES, ...
    shape: tuple[int, ...]
    data: Sequence[Any] | NDArray[Any]  # flattened, or nested as the shape says


def rows_of_body(body: Mapping[str, Any], task: Task, shape: PayloadShape) -> list[Row]:
    """Return the inputs of one request's body, one row for each of its batch; raises `Bad`."""
    if "instances" in body:
        return _rows_of_instances(body["instances"], task)
    inputs = body.get("inputs")
    if (
        isinstance(inputs, list)
        and inputs
        and all(isinstance(entry, Mapping) and "datatype" in entry for entry in inputs)
    ):
        return rows_of_tensors([_tensor(entry) for entry in inputs], task, shape)
    if isinstance(inputs, Mapping) and isinstance(shape, RecordLayout):
        return _records_by_input(inputs, shape)
    raise Bad("the body has neither instances (v1) nor inputs with a datatype (v2)")


def is_name(value: object) -> bool:
    """Tell whether a value can be a tenant, domain, language or label: a text or a number."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""


def rows_of_tensors(inputs: Sequence[NamedTensor], task: Task, shape: PayloadShape) -> list[Row]:
    """Return one row for each of the batch.

    Raises:
        Bad: It is not plain which input the model reads.
    """
    if isinstance(shape, RecordLayout):
        return _records(inputs, shape)
    if TRAITS[task].reads != "text":
        return _numbers(
            _the_one([tensor for tensor in inputs if tensor.datatype in NUMERIC], "numeric"), shape
        )
    texts = [tensor for tensor in inputs if tensor.datatype == "BYTES"]
    if not texts:
        raise Bad(
            "it holds no text (BYTES): this model reads text, so log in front of the tokenizer"
        )
    named = [tensor for tensor in texts if tensor.name.lower() in TEXT_NAMES]
    return [
        {"text": text} for text in _flat(_the_one(named if len(named) == 1 else texts, "text").data)
    ]


def row_of_value(value: object, task: Task) -> Row:
    """Return the input that one JSON value is.

    It is a text, a conversation, nested lists, or an object that holds one of them.
    """
    if isinstance(value, Mapping) and TRAITS[task].reads == "record":
        inputs = {name: item for name, item in value.items() if name not in CONTEXT}
        return {**_context(value), "tensors": inputs}
    if isinstance(value, Mapping):
        return {**_context(value), **_row_of_object(value, task)}
    if TRAITS[task].reads == "record":
        return {"tensors": value}
    if TRAITS[task].reads != "text":
        return {"tensor": value}
    return {"text": value}


def _context(value: Mapping[str, Any]) -> Row:
    return {name: value[name] for name in CONTEXT if is_name(value.get(name))}


def _row_of_object(value: Mapping[str, Any], task: Task) -> Row:
    if TRAITS[task].reads != "text":
        lists = [name for name, item in value.items() if isinstance(item, list)]
        if not lists and len(value) == 1:  # the checks say what it is instead
            return {"tensor": next(iter(value.values()))}
        if len(lists) != 1:
            raise Bad(f"it has {len(lists)} lists: this model reads one tensor")
        return {"tensor": value[lists[0]]}
    if "messages" in value:
        return {"text": render(value["messages"])}
    if set(value) == {"b64"}:
        return {"text": unbase64("the input", value["b64"])}
    texts = [name for name, item in value.items() if isinstance(item, str) and name not in CONTEXT]
    for name in (*TEXT_NAMES, *(texts if len(texts) == 1 else ())):
        if isinstance(value.get(name), str):
            return {"text": value[name]}
    raise Bad(
        f"it has {len(texts)} texts and none is called {', '.join(TEXT_NAMES[:3])}: "
        "this model reads one"
    )


def _rows_of_instances(instances: object, task: Task) -> list[Row]:
    if not isinstance(instances, list) or not instances:
        raise Bad("instances is not a list of inputs")
    return [row_of_value(instance, task) for instance in instances]


def _tensor(entry: Mapping[str, Any]) -> NamedTensor:
    shape, data = entry.get("shape"), entry.get("data")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise Bad(f"the input {entry.get('name')} has no shape of whole numbers")
    if not isinstance(data, (list, np.ndarray)):
        raise Bad(
            f"the input {entry.get('name')} has no data, neither in JSON nor behind it: "
            "log whole bodies, or let clients send JSON"
        )
    name, parameters = str(entry.get("name")), entry.get("parameters")
    if isinstance(parameters, Mapping) and parameters.get("content_type") == "base64":
        data = [unbase64(f"the input {name}", item) for item in data]
    return NamedTensor(name, str(entry["datatype"]), tuple(shape), data)


def unbase64(what: str, packed: object) -> str:
    """Return a text that was sent in base64; raises `Bad`."""
    try:
        return base64.b64decode(str(packed), validate=True).decode()
    except ValueError:
        raise Bad(f"{what} is not UTF-8 text in base64") from None


def _the_one(tensors: Sequence[NamedTensor], kind: str) -> NamedTensor:
    if len(tensors) != 1:
        names = ", ".join(tensor.name for tensor in tensors) or "none"
        raise Bad(f"it has {len(tensors)} {kind} inputs ({names}): this model reads one")
    return tensors[0]


def _records(inputs: Sequence[NamedTensor], layout: RecordLayout) -> list[Row]:
    """Return one record for each of the batch; what has no batch axis is part of each."""
    arrays = {
        entry.name: _array(entry, layout.tensors[entry.name].dtype)
        for entry in inputs
        if entry.name in layout.tensors
    }
    missing = sorted(set(layout.tensors) - set(arrays))
    if missing:
        names = ", ".join(entry.name for entry in inputs) or "none"
        raise Bad(f"the input {missing[0]} is missing: the body has {names}")
    sizes = {
        len(arrays[name])
        for name, wanted in layout.tensors.items()
        if wanted.batched and arrays[name].ndim
    }
    if len(sizes) > 1:
        raise Bad(f"its inputs are of {' and '.join(map(str, sorted(sizes)))} requests")
    return [
        {
            "tensors": {
                name: arrays[name][place] if wanted.batched else arrays[name]
                for name, wanted in layout.tensors.items()
            }
        }
        for place in range(*sizes or (1,))
    ]


def _records_by_input(inputs: Mapping[str, Any], layout: RecordLayout) -> list[Row]:
    """Return the records of named tensors: of a batch where each has an axis more."""
    arrays = {
        name: _nested(name, value, layout.tensors[name].dtype)
        for name, value in inputs.items()
        if name in layout.tensors
    }
    batched = [name for name in arrays if layout.tensors[name].batched]
    if not batched or any(arrays[name].ndim <= len(layout.tensors[name].axes) for name in batched):
        return [{"tensors": arrays}]
    named = [
        NamedTensor(name, "FP64", array.shape, array.reshape(-1)) for name, array in arrays.items()
    ]
    return _records(named, layout)


def _nested(name: str, value: object, dtype: str) -> NDArray[np.generic]:
    try:
        return as_dtype(value, dtype)
    except ValueError as error:
        raise Bad(f"the input {name} {error}") from None


def _array(entry: NamedTensor, dtype: str) -> NDArray[np.generic]:
    try:
        values = as_dtype(entry.data, dtype).reshape(-1)
    except ValueError as error:
        raise Bad(f"the input {entry.name} {error}") from None
    if values.size != prod(entry.shape):
        raise Bad(
            f"the input {entry.name} has {values.size} numbers, "
            f"but shape {list(entry.shape)} needs {prod(entry.shape)}"
        )
    return values.reshape(entry.shape)


def as_dtype(values: object, dtype: str) -> NDArray[np.generic]:
    """Return nested lists as an array of a dtype that holds each of them.

    Raises:
        ValueError: a clause on what they are instead.
    """
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError, RecursionError):
        raise ValueError("is ragged: its lists differ in length") from None
    if not array.size:
        array = array.astype(dtype)
    wanted = np.dtype(dtype)
    if array.dtype.kind not in "biuf":
        raise ValueError("is not nested lists of numbers")
    if wanted.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(wanted)
    narrowed = array.astype(wanted)
    if not np.array_equal(narrowed, array):
        raise ValueError(f"holds numbers that {dtype} has not")
    return narrowed


def _numbers(tensor: NamedTensor, shape: tuple[int, ...] | None) -> list[Row]:
    try:
        with np.errstate(over="ignore"):
            flat = np.asarray(tensor.data, dtype=np.float64).astype("<f4").reshape(-1)
    except (ValueError, TypeError, OverflowError):
        raise Bad(f"the input {tensor.name} is not a list of numbers") from None
    if flat.size != prod(tensor.shape):
        raise Bad(
            f"the input {tensor.name} has {flat.size} numbers, "
            f"but shape {list(tensor.shape)} needs {prod(tensor.shape)}"
        )
    single = tensor.shape if tensor.shape == shape or len(tensor.shape) < 2 else tensor.shape[1:]
    if shape is not None and single != shape:
        raise Bad(
            f"the input {tensor.name} has shape {list(tensor.shape)}: "
            f"this model reads {list(shape)}, or a batch of it"
        )
    if not flat.size:
        raise Bad(f"the input {tensor.name} is empty")
    return [
        {"tensor": row.tobytes(), "shape": list(single)} for row in flat.reshape(-1, prod(single))
    ]


def _flat(data: object) -> list[object]:
    return [leaf for item in data for leaf in _flat(item)] if isinstance(data, list) else [data]
