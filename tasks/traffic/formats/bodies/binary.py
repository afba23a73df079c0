"""Tensors behind a JSON document: the Open Inference Protocol's binary data extension.

The document names `binary_data_size` bytes a tensor, which follow in the order of the tensors,
little-endian and in C order. Source:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.gateway.wire.datatypes import LITTLE_ENDIAN
from tasks.traffic.formats.raw import Bad


def parted(data: bytes, length: int | None) -> tuple[Mapping[str, Any], bytes]:
    """Return the JSON object that bytes begin with, and the bytes behind it.

    Args:
        data: A body.
        length: Of the JSON, as the header Inference-Header-Content-Length tells; None: where the
            object ends.

    Raises:
        Bad: They begin with no JSON object.
    """
    if length is not None and not 0 < length <= len(data):
        raise Bad(f"its JSON has {length} bytes of the body's {len(data)}, as its header says")
    head = data if length is None else data[:length]
    try:
        text = head.decode(errors="surrogateescape").lstrip()
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        raise Bad("its body does not begin with JSON") from None
    if not isinstance(value, dict):
        raise Bad("its body is not a JSON object")
    rest = text[end:].encode(errors="surrogateescape")
    return value, (rest if length is None else data[length:])


def filled(body: Mapping[str, Any], tail: bytes) -> Mapping[str, Any]:
    """Return a request's body with the data of its inputs in place, each an array or texts.

    Raises:
        Bad: The bytes are not those that the body announces.
    """
    inputs = body.get("inputs")
    if not isinstance(inputs, list):
        return body
    place, entries = 0, []
    for entry in inputs:
        size = _size_of(entry)
        if size is None:
            entries.append(entry)
            continue
        if size > len(tail) - place:
            raise Bad(
                f"the input {entry.get('name')} has {len(tail) - place} bytes behind the JSON: "
                f"{size} are announced"
            )
        entries.append({**entry, "data": _unpacked(entry, tail[place : place + size])})
        place += size
    if place != len(tail.strip() if not place else tail):
        raise Bad(f"{len(tail) - place} bytes behind the JSON belong to no input")
    return {**body, "inputs": entries}


def _size_of(entry: object) -> int | None:
    parameters = entry.get("parameters") if isinstance(entry, Mapping) else None
    size = parameters.get("binary_data_size") if isinstance(parameters, Mapping) else None
    return size if type(size) is int and size >= 0 else None


def _unpacked(entry: Mapping[str, Any], raw: bytes) -> object:
    name, kind, shape = entry.get("name"), str(entry.get("datatype")), entry.get("shape")
    if kind == "BYTES":
        return _texts(str(name), raw)
    if kind not in LITTLE_ENDIAN:
        raise Bad(
            f"the input {name} is of the datatype {kind}: known are BYTES, "
            f"{', '.join(LITTLE_ENDIAN)}"
        )
    dtype = np.dtype(LITTLE_ENDIAN[kind])
    sizes = shape if isinstance(shape, list) else []
    count = prod(size for size in sizes if type(size) is int)
    if len(raw) != count * dtype.itemsize:
        raise Bad(
            f"the input {name} has {len(raw)} bytes, "
            f"but shape {sizes} of {kind} needs {count * dtype.itemsize}"
        )
    return _numbers(np.frombuffer(raw, dtype), kind)


def _numbers(values: NDArray[Any], kind: str) -> NDArray[Any]:
    return (values.astype("<u4") << 16).view("<f4") if kind == "BF16" else values


def _texts(name: str, raw: bytes) -> list[str]:
    """Return the elements of a BYTES tensor: each its length in four bytes, then itself."""
    texts, place = [], 0
    while place < len(raw):
        size = int.from_bytes(raw[place : place + 4], "little")
        element = raw[place + 4 : place + 4 + size]
        if len(element) != size or place + 4 > len(raw):
            raise Bad(f"the input {name} breaks off within a text of {size} bytes")
        try:
            texts.append(element.decode())
        except UnicodeDecodeError:
            raise Bad(f"the input {name} holds bytes that are no UTF-8 text") from None
        place += 4 + size
    return texts
