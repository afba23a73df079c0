"""The body of a request or of a response as a log keeps it, decoded as far as it has to be."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.traffic.formats.bodies.binary import parted
from tasks.traffic.formats.raw import LONGEST_LINE, Bad

_LENGTH = "inference-header-content-length"
_TEXTS = ("application/json", "text/")


@dataclass(frozen=True, slots=True)
class LoggedBody:
    """A body, whatever it holds."""

    value: object  # parsed JSON, or bytes
    length: int | None  # bytes of the JSON that the body begins with, where a header tells
    kind: str  # its content type, in small letters; "" where none is told

    @classmethod
    def of(cls, fields: Mapping[str, Any], headers: Mapping[str, Any]) -> LoggedBody:
        """Return the body of an event; raises `Bad` where it is not in base64."""
        named = {str(name).lower(): first(value) for name, value in headers.items()}
        kind = fields.get("datacontenttype") or fields.get("contentType")
        kind = str(kind or named.get("content-type") or "").lower().partition(";")[0].strip()
        packed = fields.get("bytes") or fields.get("data_base64")
        data: object = fields.get("data")
        if isinstance(packed, str):
            try:
                data = _inflated(base64.b64decode(packed, validate=True))
            except (binascii.Error, ValueError):
                raise Bad("its body is not in base64") from None
        elif isinstance(data, str):
            data = data.encode(errors="surrogateescape")
        length = str(named.get(_LENGTH) or "")
        return cls(data, int(length) if length.isdecimal() else None, kind)

    def request(self) -> dict[str, object]:
        """Return the JSON of a request, and in base64 what lies behind it.

        Raises:
            Bad: It does not begin with a JSON object.
        """
        if not isinstance(self.value, bytes):
            return {"body": _object(self.value), "tail": ""}
        if self.length == 0:
            raise Bad("its body is one tensor without name, type and shape: send it with its JSON")
        if not self.value:
            raise Bad("its body is empty: let the logger keep bodies")
        body, tail = parted(self.value, self.length)
        if tail.strip() and not _announces(body):
            raise Bad("its body is JSON with more behind it")
        return {"body": body, "tail": base64.b64encode(tail).decode()}

    def response(self) -> dict[str, object]:
        """Return what a response says in JSON.

        Of an answer in binary, or in a stream of events, that is little or nothing: which model
        answered, and whether with an error.

        Raises:
            Bad: It is neither, though it claims to be JSON.
        """
        if not isinstance(self.value, bytes):
            if isinstance(self.value, list):  # as embedding servers answer: no word on the model
                return {"body": {}}
            return {"body": _object(self.value)}
        if _is_stream(self.value, self.kind):
            return {"body": _of_stream(self.value)}
        if _is_list(self.value):
            return {"body": {}}
        try:
            return {"body": parted(self.value, self.length or None)[0]}
        except Bad:
            if self.kind.startswith(_TEXTS) or (not self.kind and _is_text(self.value)):
                raise Bad("its body is text where JSON belongs, as a server's error is") from None
            return {"body": {}}


def first(value: object) -> object:
    """Return the first of a header's values, or its one value."""
    return value[0] if isinstance(value, list) and value else value


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Bad("its body is not a JSON object")
    return value


def _announces(body: Mapping[str, Any]) -> bool:
    return '"binary_data_size"' in json.dumps(body.get("inputs"))


def _inflated(data: bytes) -> bytes:
    """Return a body that was compressed by gzip as it was before."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        stream = zlib.decompressobj(31)
        plain = stream.decompress(data, LONGEST_LINE)
    except zlib.error:
        raise Bad("its body is not whole: gzip cannot be read") from None
    if stream.unconsumed_tail:
        raise Bad(f"its body has more than {LONGEST_LINE} bytes")
    return plain


def _is_stream(data: bytes, kind: str) -> bool:
    return kind == "text/event-stream" or data.lstrip().startswith((b"data:", b"event:"))


def _of_stream(data: bytes) -> dict[str, object]:
    """Return what the events of a stream say of the whole: model, and an error."""
    known: dict[str, object] = {}
    for line in data.splitlines():
        if not line.startswith(b"data:"):
            continue
        try:
            chunk = json.loads(line.removeprefix(b"data:"))
        except (ValueError, RecursionError):
            continue  # "[DONE]", or the last line of a stream that a client left
        if isinstance(chunk, dict):
            known = {name: chunk[name] for name in ("error", "model") if chunk.get(name)} | known
    return known


def _is_list(data: bytes) -> bool:
    """Tell whether an answer is values alone, as embedding servers give."""
    try:
        return data.lstrip().startswith(b"[") and isinstance(json.loads(data), list)
    except (ValueError, RecursionError):
        return False


def _is_text(data: bytes) -> bool:
    try:
        return data.decode().isprintable()
    except UnicodeDecodeError:
        return False
