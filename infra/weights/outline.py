"""A serialized graph without its numbers: its names, nodes and shapes, read in milliseconds.

Parsing all of a graph copies its weights while the interpreter's lock is held, in which a server
answers nobody. Here the wire format of protobuf is followed from field to field, and what is left
out is never copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import onnx

from infra.errors import BadInput

LARGE = 1 << 10
"""Bytes of an initializer from which on its numbers are left out."""
MOST_PARTS = 100_000
"""Fields that are followed one by one; protobuf itself reads a graph of more sooner."""
_GRAPH = 7
"""Of `ModelProto`."""
_INITIALIZER = 5
"""Of `GraphProto`."""
_NUMBERS = frozenset({4, 5, 6, 7, 9, 10, 11})
"""Of `TensorProto`: its data fields."""
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def outline(graph: bytes) -> onnx.ModelProto:
    """Return a serialized model whose large initializers have no numbers.

    Raises:
        BadInput: The bytes are no model.
    """
    model = onnx.ModelProto()
    try:
        parts = list(islice(_model(memoryview(graph)), MOST_PARTS))
        model.ParseFromString(b"".join(parts) if len(parts) < MOST_PARTS else graph)
    except Exception as error:  # IndexError, and whatever protobuf raises
        raise BadInput(f"this is no ONNX graph ({error}): export it again") from error
    return model


def _model(data: memoryview) -> Iterator[bytes | memoryview]:
    for field, whole, content in _fields(data):
        if field == _GRAPH:
            yield from _message(field, list(_graph(content)))
        else:
            yield whole


def _graph(data: memoryview) -> Iterator[bytes | memoryview]:
    for field, whole, content in _fields(data):
        if field == _INITIALIZER and len(content) > LARGE:
            kept = [part for name, part, _ in _fields(content) if name not in _NUMBERS]
            yield from _message(field, kept)
        else:
            yield whole


def _message(field: int, parts: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield a field that holds a message of these parts."""
    yield bytes([field << 3 | _BYTES]) + _varint(sum(len(part) for part in parts))
    yield from parts


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield each field's number, all of its bytes, and those of its content."""
    place = 0
    while place < len(data):
        tag, begin = _read(data, place)
        size = {_EIGHT: 8, _FOUR: 4}.get(tag & 7, 0)
        if tag & 7 == _VARINT:
            size = _read(data, begin)[1] - begin
        elif tag & 7 == _BYTES:
            size, begin = _read(data, begin)
        elif not size:
            raise ValueError(f"there is no wire type {tag & 7}")
        end = begin + size
        if end > len(data) or not tag >> 3:
            raise ValueError("a field ends after the bytes do, or has no number")
        yield tag >> 3, data[place:end], data[begin:end]
        place = end


def _read(data: memoryview, place: int) -> tuple[int, int]:
    """Return the number that is written at a place, and where it ends."""
    value, shift = 0, 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes((*written, value))
