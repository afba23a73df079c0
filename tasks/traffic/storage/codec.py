"""Requests as versioned Parquet and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import BadInput
from tasks.payloads import PAYLOAD_FIELDS, decode, encode
from tasks.records import Request
from tasks.traffic.storage.schema import SCHEMA, conform, present

_PLAIN = tuple(field.name for field in SCHEMA if field not in PAYLOAD_FIELDS)


def to_parquet(requests: Iterable[Request]) -> bytes:
    """Write requests in the order given; equal requests give equal bytes."""
    rows = [
        {**{name: getattr(request, name) for name in _PLAIN}, **encode(request.payload)}
        for request in requests
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(data: bytes, *, where: str) -> tuple[Request, ...]:
    """Read what `to_parquet` wrote, before or after columns were added.

    Raises:
        BadInput: On a damaged file, another version, columns that `schema.present` refuses, and bad
            rows.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        names = present(SCHEMA, file.schema_arrow, where)
        rows = [
            row
            for batch in file.iter_batches(columns=names)
            for row in conform(batch, SCHEMA, where).to_pylist()
        ]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0].rstrip(".")
        raise BadInput(
            f"{where} is not a whole Parquet file ({reason}): write or fetch it again"
        ) from error
    return tuple(_request(row, f"row {number} of {where}") for number, row in enumerate(rows, 1))


def _request(row: Mapping[str, object], where: str) -> Request:
    time = cast(datetime, row["time"])  # the schema was checked
    try:
        plain = {name: row[name] for name in _PLAIN} | {
            "time": time.astimezone(UTC),
            "payload": decode(row),
        }
    except BadInput as error:
        raise BadInput(f"{where} holds no input: {error}") from error
    return Request(**plain)  # type: ignore[arg-type]  # the schema was checked
