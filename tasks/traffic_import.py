"""Traffic files from outside, JSON Lines or Parquet: every record is checked here, once.

A bad record is set aside with its reason, never dropped in silence and never a reason to lose the good ones.
A file that cannot be read at all raises `BadInput`.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError
from pydantic_core import PydanticCustomError

from infra.errors import BadInput
from tasks.models.traits import TRAITS, Task
from tasks.records import Payload, Request, Tensor

LONGEST_TEXT = 1_000_000  # bytes of UTF-8
LONGEST_LINE = 16_000_000  # bytes of JSON: a text of 1 MB may be escaped sixfold
RAW_KEPT = 4_000  # characters of a rejected record that are carried along
CLOCK_SKEW = timedelta(hours=1)
"""A later time is a broken clock: one such request would move every window into the future."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One record that is no request."""

    line_or_row: int  # from 1
    reason: str  # without the record's content
    raw: str  # the beginning of the record; not redacted yet


@dataclass(frozen=True, slots=True)
class Import:
    """What a file held; nothing is missing from the two together."""

    accepted: tuple[Request, ...]
    rejected: tuple[Reject, ...]


def read_import(path: Path, *, task: Task, shape: tuple[int, ...] | None = None, now: datetime | None = None) -> Import:
    """Read `.jsonl` or `.parquet`; `shape` is that of one tensor (-1: any length), `now` the latest believable time.

    Raises `BadInput` when the file is missing, truncated, of another kind or has columns of a wrong type.
    """
    readers: dict[str, Callable[[Path], Iterator[_Raw]]] = {".jsonl": _lines, ".parquet": _rows}
    if path.suffix not in readers:
        raise BadInput(f"{path} is neither .jsonl nor .parquet: convert it, or give it the right extension")
    check = _Check(task, shape, (now or datetime.now(UTC)) + CLOCK_SKEW)
    accepted: list[Request] = []
    rejected: list[Reject] = []
    try:
        for raw in readers[path.suffix](path):
            try:
                accepted.append(check.request(raw.parse()))
            except _Bad as bad:
                rejected.append(Reject(raw.number, str(bad), raw.excerpt))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror or error}): give the path of a whole file") from error
    return Import(tuple(accepted), tuple(rejected))


class _Bad(Exception):
    """Why one record is no request."""


@dataclass(frozen=True, slots=True)
class _Raw:
    number: int
    excerpt: str
    parse: Callable[[], Mapping[str, object]]  # raises _Bad


# --- one record --------------------------------------------------------------------------------------------------


def _aware(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise PydanticCustomError("time", "is not ISO 8601, such as 2026-01-31T03:00:00Z") from error
    if not isinstance(value, datetime):
        raise PydanticCustomError("time", "is not ISO 8601 text, such as 2026-01-31T03:00:00Z")
    if value.tzinfo is None:
        raise PydanticCustomError(
            "time", "has no time zone: end it with Z or an offset, because guessing moves windows"
        )
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise PydanticCustomError("time", "lies outside the calendar") from error


def _or(default: str) -> BeforeValidator:
    return BeforeValidator(lambda value: default if value is None or value == "" else value)


_Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Record(BaseModel):
    """The plain fields of a request; unknown fields are ignored, so that producers may send more."""

    model_config = ConfigDict(extra="ignore", strict=True)

    request_id: _Name
    time: Annotated[datetime, BeforeValidator(_aware)]
    tenant: Annotated[_Name, _or("default")] = "default"
    domain: Annotated[_Name, _or("unknown")] = "unknown"
    language: Annotated[_Name, _or("unknown")] = "unknown"
    latency_ms: FiniteFloat | None = None
    model_version: _Name | None = None
    decision: _Name | None = None
    label: _Name | None = None


@dataclass(frozen=True, slots=True)
class _Check:
    task: Task
    shape: tuple[int, ...] | None
    latest: datetime

    def request(self, record: Mapping[str, object]) -> Request:
        """The request that a record describes; raises `_Bad`."""
        payload = _text(record) if TRAITS[self.task].reads == "text" else _tensor(record, self.shape)
        try:
            plain = _Record.model_validate(record)
        except ValidationError as error:
            raise _Bad("; ".join(_sentence(found) for found in error.errors(include_input=False))) from None
        if plain.time > self.latest:
            raise _Bad("time lies in the future: check the clock of the host that recorded it")
        fields = dict(plain)
        for name, value in fields.items():
            if isinstance(value, str):
                _require_utf8(name, value)
        return Request(payload=payload, **fields)


def _sentence(error: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{name} is missing"
    message = str(error["msg"])
    return f"{name} {message}" if error["type"] == "time" else f"{name}: {message[:1].lower()}{message[1:]}"


def _text(record: Mapping[str, object]) -> Payload:
    text = record.get("text")
    if text is None:
        raise _Bad("text is missing: this model reads text")
    if not isinstance(text, str):
        raise _Bad(f"text is {_kind(text)}, not text")
    if not text.strip():
        raise _Bad("text is empty")
    size = len(_require_utf8("text", text))
    if size > LONGEST_TEXT:
        raise _Bad(f"text has {size} bytes: at most {LONGEST_TEXT} are read")
    return text


def _require_utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _Bad(f"{name} holds half a surrogate pair, which is not valid Unicode") from None


def _tensor(record: Mapping[str, object], shape: tuple[int, ...] | None) -> Tensor:
    nested, packed = record.get("tensor"), record.get("tensor_b64")
    if packed is not None:
        nested = _unbase64(packed)
    if nested is None:
        raise _Bad("tensor is missing: this model reads tensors; give tensor (nested lists) or tensor_b64")
    tensor = _unpack(nested, record.get("shape"), shape) if isinstance(nested, bytes) else _from_lists(nested)
    if shape is not None and not _fits(tensor.shape, shape):
        raise _Bad(f"tensor has shape {list(tensor.shape)}: this model reads {_spelled(shape)}")
    if not tensor.size:
        raise _Bad("tensor is empty")
    if not np.isfinite(tensor).all():
        raise _Bad("tensor holds NaN or infinite values")
    return tensor


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether the shapes agree; -1 takes any length."""
    return len(found) == len(wanted) and all(want in (-1, size) for size, want in zip(found, wanted, strict=True))


def _spelled(shape: tuple[int, ...]) -> str:
    return str(list(shape)) if -1 not in shape else "one row of any length"


def _unbase64(packed: object) -> bytes:
    if not isinstance(packed, str):
        raise _Bad(f"tensor_b64 is {_kind(packed)}, not text")
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise _Bad("tensor_b64 is not base64") from None


def _unpack(raw: bytes, given: object, shape: tuple[int, ...] | None) -> Tensor:
    """Little-endian float32 in C order; the record's own shape comes before the model's."""
    own = (len(raw) // 4,) if shape == (-1,) else shape
    sizes = own if given is None else given
    if not isinstance(sizes, (list, tuple)) or not all(type(size) is int and size > 0 for size in sizes):
        raise _Bad("shape is missing or not a list of positive integers")
    count = 1
    for size in sizes:
        count *= size
    if len(raw) != 4 * count:
        raise _Bad(f"tensor has {len(raw)} bytes, but shape {list(sizes)} of float32 needs {4 * count}")
    return np.frombuffer(raw, dtype="<f4").reshape(sizes).astype(np.float32)


def _from_lists(nested: object) -> Tensor:
    try:
        values: NDArray[Any] = np.asarray(nested)
    except (ValueError, OverflowError, RecursionError):
        raise _Bad("tensor is ragged: its lists differ in length") from None
    if not isinstance(nested, list) or values.dtype.kind not in "iuf":
        raise _Bad("tensor is not nested lists of numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return values.astype(np.float32)


def _kind(value: object) -> str:
    return {"bool": "a boolean", "int": "a number", "float": "a number", "list": "a list", "dict": "an object"}.get(
        type(value).__name__, type(value).__name__
    )


# --- JSON Lines --------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[_Raw]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            whole = len(line) < LONGEST_LINE or line.endswith(b"\n")
            if not whole:
                _skip_line(file)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield _raw_line(number, line, whole)


def _skip_line(file: BinaryIO) -> None:
    while rest := file.readline(LONGEST_LINE):
        if rest.endswith(b"\n"):
            return


def _raw_line(number: int, line: bytes, whole: bool) -> _Raw:
    def parse() -> Mapping[str, object]:
        if not whole:
            raise _Bad(f"the line has more than {LONGEST_LINE} bytes")
        return _parsed(line)

    return _Raw(number, line[:RAW_KEPT].decode(errors="replace"), parse)


def _parsed(line: bytes) -> Mapping[str, object]:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _Bad(f"the line is not valid UTF-8 at byte {error.start + 1}") from None
    except (ValueError, RecursionError) as error:
        raise _Bad(
            f"the line is not JSON: {getattr(error, 'msg', 'it is nested too deeply or holds a huge number')}"
        ) from None
    if not isinstance(record, dict):
        raise _Bad("the line is not a JSON object")
    return record


# --- Parquet -----------------------------------------------------------------------------------------------------

_KINDS: Mapping[str, str] = {
    "request_id": "text",
    "time": "time with zone",
    "tenant": "text",
    "domain": "text",
    "language": "text",
    "text": "text",
    "tensor": "bytes",
    "shape": "list of integers",
    "latency_ms": "number",
    "model_version": "text",
    "decision": "text",
    "label": "text",
}
_REQUIRED = ("request_id", "time")


def _rows(path: Path) -> Iterator[_Raw]:
    try:
        with pq.ParquetFile(path) as file:
            names = _check_columns(file.schema_arrow, path)
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=names):
                for row in _bytewise(batch).to_pylist():
                    number += 1
                    yield _raw_row(number, row)
    except pa.ArrowException as error:
        reason = (str(error).splitlines() or ["unknown"])[0].rstrip(".")
        raise BadInput(f"{path} is not a whole Parquet file ({reason}): write or fetch it again") from error


def _check_columns(schema: pa.Schema, path: Path) -> list[str]:
    """The columns to read; others are ignored."""
    for name in _REQUIRED:
        if name not in schema.names:
            raise BadInput(f"{path} has no column {name}: it needs {', '.join(_REQUIRED)} and the input's columns")
    names = [name for name in _KINDS if name in schema.names]
    for name in names:
        found = _column_kind(schema.field(name).type)
        if found not in (_KINDS[name], "nothing"):
            raise BadInput(f"{path} has column {name} of type {schema.field(name).type}: it must be {_KINDS[name]}")
    return names


def _column_kind(kind: pa.DataType) -> str:
    tests: tuple[tuple[str, bool], ...] = (
        ("nothing", pa.types.is_null(kind)),
        ("text", pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)),
        ("bytes", pa.types.is_binary(kind) or pa.types.is_large_binary(kind)),
        ("time with zone", pa.types.is_timestamp(kind) and kind.tz is not None),
        ("list of integers", pa.types.is_list(kind) and pa.types.is_integer(kind.value_type)),
        ("number", pa.types.is_floating(kind) or pa.types.is_integer(kind)),
    )
    return next((name for name, holds in tests if holds), "another")


def _bytewise(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Text as bytes: Parquet does not promise that text is UTF-8, and one bad row must not lose the others."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = _column_kind(column.type)
        if kind == "text":
            column = column.cast(pa.large_binary())
        elif kind == "time with zone":
            column = column.cast(pa.timestamp("us", tz="UTC"), safe=False)  # nanoseconds are cut
        elif kind == "number":
            column = column.cast(pa.float64())
        columns[name] = column
    return pa.RecordBatch.from_pydict(columns)


def _raw_row(number: int, row: Mapping[str, object]) -> _Raw:
    shown = {
        name: value[:RAW_KEPT].decode(errors="replace") if isinstance(value, bytes) else str(value)
        for name, value in row.items()
        if name != "tensor" and value is not None
    }
    return _Raw(number, json.dumps(shown, ensure_ascii=False)[:RAW_KEPT], lambda: _decoded(row))


def _decoded(row: Mapping[str, object]) -> Mapping[str, object]:
    record = dict(row)
    for name, value in row.items():
        if isinstance(value, bytes) and _KINDS[name] == "text":
            try:
                record[name] = value.decode()
            except UnicodeDecodeError:
                raise _Bad(f"{name} is not valid UTF-8") from None
        elif value is None:
            del record[name]  # a null column of a required field is a missing field
    return record
