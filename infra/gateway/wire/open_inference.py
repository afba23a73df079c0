"""Requests and answers of the Open Inference Protocol (v2) over HTTP.

A body is one JSON document; where a tensor's parameters name a `binary_data_size`, its bytes follow
behind the document in the order of the tensors. The header Inference-Header-Content-Length then
tells where the document ends. Sources: https://github.com/kserve/open-inference-protocol and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from infra.errors import BadInput
from infra.gateway.wire.bodies import require_flat
from infra.gateway.wire.datatypes import (
    MOST_DIMENSIONS,
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
)
from infra.gateway.wire.extensions import require_known
from infra.gateway.wire.request_ids import id_of

HEADER_LENGTH = "Inference-Header-Content-Length"
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a client asks."""

    id: str  # the client's own; empty where it gave none
    inputs: Tensors
    outputs: Mapping[str, bool] | None  # name -> whether in bytes; None: all, as `binary` says
    binary: bool
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class InferenceAnswer:
    """What a release answers."""

    id: str
    model: str
    version: str
    parameters: Mapping[str, str]  # digest and tier of what answered; empty ones are left out
    outputs: Tensors


def parse_request(body: bytes, header_length: int | None = None) -> InferenceRequest:
    """Read a request.

    Args:
        body: The whole body.
        header_length: The length of its JSON in bytes; None where it is all JSON.

    Raises:
        BadInput: It is not one, and where.
    """
    if header_length is not None and _is_json(body):
        header_length = None
    if header_length is not None and not 0 < header_length <= len(body):
        raise BadInput(f"{HEADER_LENGTH} is {header_length}, and the body has {len(body)} bytes")
    document = _document(body if header_length is None else body[:header_length])
    tail = memoryview(b"" if header_length is None else body[header_length:])
    entries = document.get("inputs")
    if not isinstance(entries, list) or not entries:
        raise BadInput("the request has no inputs: a list of tensors with name, shape and datatype")
    inputs: dict[str, NDArray[Any]] = {}
    for entry in entries:
        name, values, used = _input(entry, tail)
        if name in inputs:
            raise BadInput(f"the input {name} is given twice")
        inputs[name], tail = values, tail[used:]
    if len(tail):
        raise BadInput(f"{len(tail)} bytes behind the JSON belong to no input")
    parameters = _mapping(document, "parameters")
    require_known("request", parameters)
    return InferenceRequest(
        id_of(document.get("id")),
        inputs,
        _wanted(document),
        parameters.get("binary_data_output") is True,
        parameters,
    )


def render_answer(answer: InferenceAnswer, request: InferenceRequest) -> tuple[bytes, int | None]:
    """Return the body, and the length of its JSON where tensors follow in bytes.

    Raises:
        BadInput: The request wants an output that the model has not.
    """
    wanted = request.outputs or dict.fromkeys(answer.outputs, request.binary)
    unknown = next((name for name in wanted if name not in answer.outputs), None)
    if unknown is not None:
        raise BadInput(f"there is no output {unknown}: the model has {', '.join(answer.outputs)}")
    entries, tail = [], []
    for name, binary in wanted.items():
        values = answer.outputs[name]
        entry: dict[str, object] = {
            "name": name,
            "shape": list(values.shape),
            "datatype": datatype_of(values.dtype),
        }
        if binary:
            tail.append(to_bytes(values))
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = _json_data(values)
        entries.append(entry)
    head = orjson.dumps(
        {
            **({"id": answer.id} if answer.id else {}),
            "model_name": answer.model,
            "model_version": answer.version,
            "parameters": {name: value for name, value in answer.parameters.items() if value},
            "outputs": entries,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    return (b"".join([head, *tail]), len(head)) if tail else (head, None)


def _is_json(body: bytes) -> bool:
    """Return whether a body is all JSON, whatever its header says.

    tritonclient (2.66) leaves the header of a call in the mapping that its caller gave, and sends
    it with the next call too, whose tensors may be JSON.
    """
    if body[-1:] not in b"}\n":  # bytes of a tensor seldom end so: they are not parsed twice
        return False
    try:
        require_flat(body)
        orjson.loads(body)
    except (BadInput, orjson.JSONDecodeError):
        return False
    return True


def _document(data: bytes) -> Mapping[str, Any]:
    require_flat(data)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise BadInput("the body is not a JSON object")
    return document


def _input(entry: object, tail: memoryview) -> tuple[str, NDArray[Any], int]:
    """Return an input's name, its values, and how many of the bytes behind the JSON are its own."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise BadInput("an input has no name: each has name, shape, datatype and data")
    name, datatype, shape = entry["name"], entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str):
        raise BadInput(f"the input {name} has no datatype, such as FP32")
    if (
        not isinstance(shape, list)
        or len(shape) > MOST_DIMENSIONS
        or not all(type(size) is int and 0 <= size < 2**31 for size in shape)
    ):
        raise BadInput(
            f"the input {name} has no shape: at most {MOST_DIMENSIONS} whole numbers from 0 on"
        )
    parameters = _mapping(entry, "parameters")
    require_known(f"input {name}", parameters)
    size = parameters.get("binary_data_size")
    if size is not None and "data" in entry:
        raise BadInput(f"the input {name} has data in JSON and behind it: its elements come once")
    if size is None:
        if "data" not in entry:
            raise BadInput(f"the input {name} has no data, neither in JSON nor behind it")
        return name, from_json(name, datatype, shape, entry["data"]), 0
    if type(size) is not int or not 0 <= size <= len(tail):
        raise BadInput(
            f"the input {name} announces {size} bytes, and {len(tail)} are left behind the JSON"
        )
    return name, from_bytes(name, datatype, shape, bytes(tail[:size])), size


def _wanted(document: Mapping[str, Any]) -> dict[str, bool] | None:
    entries = document.get("outputs")
    if entries is None or entries == []:
        return None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise BadInput("outputs is not a list of objects with a name")
    for entry in entries:
        require_known(f"output {entry['name']}", _mapping(entry, "parameters"))
    fallback = _mapping(document, "parameters").get("binary_data_output") is True
    return {
        entry["name"]: _mapping(entry, "parameters").get("binary_data", fallback) is True
        for entry in entries
    }


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{name} is not a JSON object")
    return value


def _json_data(values: NDArray[Any]) -> object:
    """Return a tensor flat, as JSON takes it; what is not finite becomes null."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype.kind == "O" or flat.dtype == np.float16:
        return flat.tolist()
    return flat
