"""Requests as versioned Parquet and back: the one schema of stored traffic, samples and calibration sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import BadInput
from tasks.payloads import PAYLOAD_FIELDS, decode, encode
from tasks.records import Request

VERSION = 1
"""Of the schema; in the file's metadata as `requant.traffic.version`."""

_METADATA_KEY = b"requant.traffic.version"
SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("tenant", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        *PAYLOAD_FIELDS,
        pa.field("latency_ms", pa.float64()),
        pa.field("model_version", pa.string()),
        pa.field("decision", pa.string()),
        pa.field("label", pa.string()),
    ],
    metadata={_METADATA_KEY: str(VERSION).encode()},
)
_PLAIN = tuple(field.name for field in SCHEMA if field not in PAYLOAD_FIELDS)
_REQUIRED = tuple(field.name for field in SCHEMA if not field.nullable)


def to_parquet(requests: Iterable[Request]) -> bytes:
    """Write requests in the order given; equal requests give equal bytes."""
    rows = [{**{name: getattr(request, name) for name in _PLAIN}, **encode(request.payload)} for request in requests]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(data: bytes, *, where: str) -> tuple[Request, ...]:
    """Read what `to_parquet` wrote; raises `BadInput` on a damaged file, another version, other columns, bad rows."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        _check_schema(table.schema, where)
        rows = table.select(SCHEMA.names).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0].rstrip(".")
        raise BadInput(f"{where} is not a whole Parquet file ({reason}): write or fetch it again") from error
    return tuple(_request(row, f"row {number} of {where}") for number, row in enumerate(rows, 1))


def require_version(schema: pa.Schema, where: str) -> None:
    """Raise `BadInput` unless a file says that it has this version of the schema."""
    version = (schema.metadata or {}).get(_METADATA_KEY, b"none").decode(errors="replace")
    if version != str(VERSION):
        raise BadInput(f"{where} has traffic schema version {version}, not {VERSION}: import the traffic again")


def _check_schema(schema: pa.Schema, where: str) -> None:
    require_version(schema, where)
    for field in SCHEMA:
        if field.name not in schema.names:
            raise BadInput(f"{where} has no column {field.name}: import the traffic again")
        found = schema.field(field.name).type
        if found != field.type:
            raise BadInput(f"{where} has column {field.name} of type {found}, not {field.type}: import it again")


def _request(row: Mapping[str, object], where: str) -> Request:
    missing = [name for name in _REQUIRED if row[name] is None]
    if missing:
        raise BadInput(f"{where} has no {missing[0]}: import the traffic again")
    time = cast(datetime, row["time"])  # the schema was checked
    try:
        plain = {name: row[name] for name in _PLAIN} | {"time": time.astimezone(UTC), "payload": decode(row)}
    except BadInput as error:
        raise BadInput(f"{where} holds no input: {error}") from error
    return Request(**plain)  # type: ignore[arg-type]  # the schema was checked
