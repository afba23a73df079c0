"""Live traffic as versioned Parquet: checked at the edge, stored by hour, read back as a window.

Keys are `traffic/MODEL/date=YYYY-MM-DD/hour=HH/part-<digest>.parquet`: content-addressed, so writing the same
requests twice is harmless, and nothing is ever rewritten. Text is redacted before it is stored (DESIGN.md, D13).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError
from pydantic_core import PydanticCustomError

from infra.errors import AlreadyExists, BadInput, Tampered
from infra.stores.port import ObjectStore
from tasks.models.spec import Task
from tasks.payloads import PAYLOAD_FIELDS, decode, encode
from tasks.records import Payload, Request, Tensor
from tasks.redaction import redact

VERSION = 1
"""Of the schema; in the file's metadata as `requant.traffic.version`."""
LONGEST_TEXT = 1_000_000  # bytes of UTF-8
LONGEST_LINE = 16_000_000  # bytes of JSON; a text of 1 MB may be escaped sixfold
LONGEST_REJECT = 2_000  # bytes kept of a rejected record
PART_ROWS = 10_000
PART_BYTES = 32_000_000
"""One part holds at most this much, which bounds the memory of whoever reads a window."""
CLOCK_SKEW = timedelta(hours=1)
"""A later time is a broken clock: one such request would move every window into the future."""

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
_PLAIN = tuple(name for name in SCHEMA.names if name not in {field.name for field in PAYLOAD_FIELDS})


# --- the codec ---------------------------------------------------------------------------------------------------


def to_parquet(requests: Iterable[Request]) -> bytes:
    """Write requests in the order given; equal requests give equal bytes."""
    rows = [{**{name: getattr(request, name) for name in _PLAIN}, **encode(request.payload)} for request in requests]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(data: bytes, *, where: str) -> tuple[Request, ...]:
    """Read what `to_parquet` wrote; raises `BadInput` on a damaged file, another version or other columns."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        _check_stored(table.schema, where)
        return tuple(_stored_request(row) for row in table.select(SCHEMA.names).to_pylist())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(where, error) from error
    except (TypeError, AttributeError, BadInput) as error:
        raise error if isinstance(error, BadInput) and where in str(error) else _bad_rows(where, error) from error


def _stored_request(row: Mapping[str, object]) -> Request:
    plain = {name: row[name] for name in _PLAIN}
    for name in ("request_id", "tenant", "domain", "language"):
        if not isinstance(plain[name], str):
            raise TypeError(f"{name} is empty")
    return Request(**{**plain, "time": row["time"].astimezone(UTC), "payload": decode(row)})  # type: ignore


def _check_stored(schema: pa.Schema, where: str) -> None:
    version = (schema.metadata or {}).get(_METADATA_KEY)
    if version != str(VERSION).encode():
        found = "none" if version is None else version.decode(errors="replace")
        raise BadInput(f"{where} has traffic schema version {found}: only {VERSION} can be read; import the file again")
    for field in SCHEMA:
        if field.name not in schema.names:
            raise BadInput(f"{where} has no column {field.name}: import the traffic again")
        found = schema.field(field.name).type
        if found != field.type:
            raise BadInput(f"{where} has column {field.name} of type {found}, not {field.type}: import it again")


def _damaged(where: str, error: Exception) -> BadInput:
    return BadInput(f"{where} is not a whole Parquet file ({_first_line(error)}): write or fetch it again")


def _bad_rows(where: str, error: Exception) -> BadInput:
    return BadInput(f"{where} has a row that is no request ({_first_line(error)}): import the traffic again")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
