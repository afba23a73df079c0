"""The inputs of a Python call, as MLflow keeps them by the names of its parameters.

Its own model classes call them `model_input` (PythonModel), `messages` (ChatModel, ChatAgent) and
`request` (ResponsesAgent); a scoring server's are `inputs`, `instances`, `dataframe_split` and
`dataframe_records`. Source: https://mlflow.org/docs/latest/ml/model/python_model
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.specs.tensors import PayloadShape, RecordLayout
from tasks.specs.traits import TRAITS, Task
from tasks.traffic.formats.bodies.conversation import ROLES
from tasks.traffic.formats.bodies.inference import (
    CONTEXT,
    TEXT_NAMES,
    Row,
    is_name,
    row_of_value,
    rows_of_body,
)
from tasks.traffic.formats.bodies.prompts import asks, context_of, texts_of
from tasks.traffic.formats.raw import Bad

_BESIDE = ("context", "params", "custom_inputs")
"""Parameters that say how to answer, and about whom; what is asked lies in another."""
_WRAPPERS = ("model_input", "request", "inputs", "instances", "dataframe_records", "data", "args")
DEEPEST = 8
"""Objects within objects that are looked into."""


def rows_of_call(inputs: object, task: Task, shape: PayloadShape) -> list[Row]:
    """Return one row for each request of a call; raises `Bad`."""
    return _rows(inputs, task, shape, 0)


def _rows(value: object, task: Task, shape: PayloadShape, depth: int) -> list[Row]:
    if depth > DEEPEST:
        raise Bad("its inputs are nested too deeply")
    if isinstance(value, Mapping):
        context = _context(value)
        return [{**context, **row} for row in _of_object(value, task, shape, depth)]
    if TRAITS[task].reads == "text" and isinstance(value, list):
        return _of_texts(value, task, shape, depth)
    if isinstance(value, list) and (_is_batch(value, shape) or _are_records(value, task)):
        return [row_of_value(item, task) for item in value]
    return [row_of_value(value, task)]


def _context(value: Mapping[str, Any]) -> Row:
    """Return tenant, domain, language and label of a call, wherever it tells them."""
    beside = {name: item for name in _BESIDE if isinstance(item := value.get(name), Mapping)}
    named = context_of({}, beside.get("params"), beside.get("context"), beside.get("custom_inputs"))
    return {name: item for name, item in named.items() if is_name(item)}


def _of_object(value: Mapping[str, Any], task: Task, shape: PayloadShape, depth: int) -> list[Row]:
    asked = {
        name: item for name, item in value.items() if item not in (None, {}) and name not in _BESIDE
    }
    inputs = asked.get("inputs")
    if (isinstance(inputs, list) and inputs and _has_datatypes(inputs)) or (
        isinstance(inputs, Mapping) and isinstance(shape, RecordLayout)
    ):
        return rows_of_body(asked, task, shape)
    if isinstance(split := asked.get("dataframe_split"), Mapping):
        records = _records(split)
        if TRAITS[task].reads in ("image", "waveform"):
            return [{"tensor": list(record.values())} for record in records]
        return _rows(records, task, shape, depth + 1)
    if isinstance(named := asked.get("kwargs"), Mapping) and not asked.get("args"):
        return _rows(named, task, shape, depth + 1)
    reads_text = TRAITS[task].reads == "text"
    if reads_text and asks(asked) and not _is_batched(asked):
        return [{**context_of(asked), "text": text} for text in texts_of(asked)]
    for name in _WRAPPERS:
        if name in asked and (name not in ("data", "args") or len(asked) == 1):
            return _rows(asked[name], task, shape, depth + 1)
    if reads_text and (rows := _by_column(asked)):
        return rows
    lone = [item for name, item in asked.items() if name not in CONTEXT]
    if reads_text and len(lone) == 1 and isinstance(lone[0], (list, Mapping)):
        return _rows(lone[0], task, shape, depth + 1)
    return [row_of_value(asked, task)]


def _of_texts(value: list[Any], task: Task, shape: PayloadShape, depth: int) -> list[Row]:
    """Return the rows of a list: a conversation, or a batch of texts, objects or conversations."""
    if not value:
        raise Bad("its inputs are an empty list")
    if all(_is_turn(item) for item in value):
        return [{"text": text} for text in texts_of({"messages": value})]
    return [row for item in value for row in _rows(item, task, shape, depth + 1)]


def _is_turn(item: object) -> bool:
    if not isinstance(item, Mapping):
        return False
    return "role" in item or ("content" in item and item.get("type") in ROLES)


def _has_datatypes(inputs: Sequence[object]) -> bool:
    return all(isinstance(entry, Mapping) and "datatype" in entry for entry in inputs)


def _records(split: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a data frame in pandas' split orientation, as objects."""
    columns, data = split.get("columns"), split.get("data")
    if not isinstance(columns, list) or not isinstance(data, list):
        raise Bad("its dataframe_split lacks columns or data")
    if any(not isinstance(row, list) or len(row) != len(columns) for row in data):
        raise Bad(f"a row of its dataframe_split has not {len(columns)} values, one a column")
    return [dict(zip(map(str, columns), row, strict=True)) for row in data]


def _is_batched(asked: Mapping[str, Any]) -> bool:
    """Tell whether an object holds several prompts: by columns, or as a list of conversations."""
    messages = asked.get("messages", asked.get("contents"))
    if messages is not None:
        return isinstance(messages, list) and all(isinstance(item, list) for item in messages)
    return len(asked) > 1 and all(isinstance(item, list) for item in asked.values())


def _by_column(asked: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a data frame by columns: lists of one length, one of them of texts."""
    columns = {name: item for name, item in asked.items() if isinstance(item, list)}
    texts = [name for name in columns if name.lower() in TEXT_NAMES]
    if len(texts) != 1 or len({len(item) for item in columns.values()}) != 1:
        return []
    named = {
        "text": columns[texts[0]],
        **{name: columns[name] for name in CONTEXT if name in columns},
    }
    return [
        {name: item for name, item in zip(named, values, strict=True) if item is not None}
        for values in zip(*named.values(), strict=True)
    ]


def _are_records(value: list[Any], task: Task) -> bool:
    """Tell whether a list holds the named inputs of several requests."""
    named = bool(value) and all(isinstance(item, Mapping) for item in value)
    return named and TRAITS[task].reads == "record"


def _is_batch(value: list[Any], shape: PayloadShape) -> bool:
    """Tell whether nested lists have one axis more than one input."""
    if not isinstance(shape, tuple):
        return False
    try:
        return np.ndim(value) == len(shape) + 1
    except ValueError:  # lists of different lengths, which the checks refuse
        return False
