"""Inputs as inference servers log them: KServe's v1 `instances`, and the Open Inference Protocol (v2) `inputs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tasks.specs.traits import TRAITS, Task
from tasks.traffic.formats.conversation import render
from tasks.traffic.formats.raw import Bad

NUMERIC = {
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
    data: Sequence[Any]  # flattened, or nested as the shape says


def rows_of_body(body: Mapping[str, Any], task: Task, shape: tuple[int, ...] | None) -> list[Row]:
    """The inputs of one request's body, one row for each of its batch; raises `Bad`."""
    if "instances" in body:
        return _rows_of_instances(body["instances"], task)
    inputs = body.get("inputs")
    if (
        isinstance(inputs, list)
        and inputs
        and all(isinstance(one, Mapping) and "datatype" in one for one in inputs)
    ):
        return rows_of_tensors([_tensor(one) for one in inputs], task, shape)
    raise Bad("the body has neither instances (v1) nor inputs with a datatype (v2)")


def rows_of_tensors(
    inputs: Sequence[NamedTensor], task: Task, shape: tuple[int, ...] | None
) -> list[Row]:
    """One row for each of the batch; raises `Bad` when it is not plain which input the model reads."""
    if TRAITS[task].reads != "text":
        return _numbers(
            _the_one([one for one in inputs if one.datatype in NUMERIC], "numeric"), shape
        )
    texts = [one for one in inputs if one.datatype == "BYTES"]
    if not texts:
        raise Bad(
            "it holds no text (BYTES): this model reads text, so log in front of the tokenizer"
        )
    named = [one for one in texts if one.name.lower() in TEXT_NAMES]
    return [
        {"text": text} for text in _flat(_the_one(named if len(named) == 1 else texts, "text").data)
    ]


def row_of_value(value: object, task: Task) -> Row:
    """The input that one JSON value is: a text, a conversation, nested lists, or an object that holds one of them."""
    if isinstance(value, Mapping):
        context = {name: value[name] for name in CONTEXT if isinstance(value.get(name), str)}
        return {**context, **_row_of_object(value, task)}
    if TRAITS[task].reads != "text":
        return {"tensor": value}
    return {"text": value}


def _row_of_object(value: Mapping[str, Any], task: Task) -> Row:
    if TRAITS[task].reads != "text":
        lists = [name for name, item in value.items() if isinstance(item, list)]
        if len(lists) != 1:
            raise Bad(f"it has {len(lists)} lists: this model reads one tensor")
        return {"tensor": value[lists[0]]}
    if "messages" in value:
        return {"text": render(value["messages"])}
    texts = [name for name, item in value.items() if isinstance(item, str) and name not in CONTEXT]
    for name in (*TEXT_NAMES, *(texts if len(texts) == 1 else ())):
        if isinstance(value.get(name), str):
            return {"text": value[name]}
    raise Bad(
        f"it has {len(texts)} texts and none is called {', '.join(TEXT_NAMES[:3])}: this model reads one"
    )


def _rows_of_instances(instances: object, task: Task) -> list[Row]:
    if not isinstance(instances, list) or not instances:
        raise Bad("instances is not a list of inputs")
    return [row_of_value(one, task) for one in instances]


def _tensor(found: Mapping[str, Any]) -> NamedTensor:
    shape, data = found.get("shape"), found.get("data")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise Bad(f"the input {found.get('name')} has no shape of whole numbers")
    if not isinstance(data, list):
        raise Bad(f"the input {found.get('name')} has no data in JSON: turn binary tensor data off")
    return NamedTensor(str(found.get("name")), str(found["datatype"]), tuple(shape), data)


def _the_one(found: Sequence[NamedTensor], kind: str) -> NamedTensor:
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise Bad(f"it has {len(found)} {kind} inputs ({names}): this model reads one")
    return found[0]


def _numbers(one: NamedTensor, shape: tuple[int, ...] | None) -> list[Row]:
    try:
        with np.errstate(over="ignore"):
            flat = np.asarray(one.data, dtype=np.float64).astype("<f4").reshape(-1)
    except (ValueError, TypeError, OverflowError):
        raise Bad(f"the input {one.name} is not a list of numbers") from None
    if flat.size != prod(one.shape):
        raise Bad(
            f"the input {one.name} has {flat.size} numbers, but shape {list(one.shape)} needs {prod(one.shape)}"
        )
    single = one.shape if one.shape == shape or len(one.shape) < 2 else one.shape[1:]
    if shape is not None and single != shape:
        raise Bad(
            f"the input {one.name} has shape {list(one.shape)}: this model reads {list(shape)}, or a batch of it"
        )
    if not flat.size:
        raise Bad(f"the input {one.name} is empty")
    return [
        {"tensor": row.tobytes(), "shape": list(single)} for row in flat.reshape(-1, prod(single))
    ]


def _flat(data: object) -> list[object]:
    return [leaf for item in data for leaf in _flat(item)] if isinstance(data, list) else [data]
