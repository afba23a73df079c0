"""Parquet with the columns of our own traffic, from whoever wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import BadInput
from tasks.traffic.formats.raw import RAW_KEPT, Bad, Raw
from tasks.traffic.slices import BUFFER, rows_of_slice

BATCH_ROWS = 1_024
_KINDS: Mapping[str, str] = {
    "request_id": "text",
    "time": "time with zone",
    "tenant": "text",
    "domain": "text",
    "language": "text",
    "text": "text",
    "tensor": "bytes",
    "shape": "list of integers",
    "dtype": "text",
    "latency_ms": "number",
    "model_version": "text",
    "decision": "text",
    "label": "text",
}
_REQUIRED = ("request_id", "time")


def read_rows(path: Path) -> Iterator[Raw]:
    """Read every row, BATCH_ROWS or a slice in memory at a time.

    Raises:
        BadInput: The file is damaged or has wrong columns.
    """
    try:
        with pq.ParquetFile(path, buffer_size=BUFFER) as file:
            names = _check_columns(file.schema_arrow, path)
            number = 0
            for batch in _slices(file, names):
                for row in _bytewise(batch).to_pylist():
                    number += 1
                    yield _raw_row(number, row)
    except pa.ArrowException as error:
        reason = (str(error).splitlines() or ["unknown"])[0].rstrip(".")
        raise BadInput(
            f"{path} is not a whole Parquet file ({reason}): write or fetch it again"
        ) from error


def _slices(file: pq.ParquetFile, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for place in range(file.num_row_groups):
        rows = rows_of_slice(file.metadata.row_group(place), names, most=BATCH_ROWS)
        yield from file.iter_batches(batch_size=rows, row_groups=[place], columns=names)


def _check_columns(schema: pa.Schema, path: Path) -> list[str]:
    """Return the columns to read; others are ignored."""
    for name in _REQUIRED:
        if name not in schema.names:
            raise BadInput(
                f"{path} has no column {name}: "
                f"it needs {', '.join(_REQUIRED)} and the input's columns"
            )
    names = [name for name in _KINDS if name in schema.names]
    for name in names:
        kind = kind_of_column(schema.field(name).type)
        if kind not in (_KINDS[name], "nothing"):
            raise BadInput(
                f"{path} has column {name} of type {schema.field(name).type}: "
                f"it must be {_KINDS[name]}"
            )
    return names


def kind_of_column(kind: pa.DataType) -> str:
    """Tell what a column holds, whichever of Arrow's types for it was chosen."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests: tuple[tuple[str, bool], ...] = (
        ("nothing", pa.types.is_null(kind)),
        (
            "text",
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_string_view(kind),
        ),
        ("bytes", pa.types.is_binary(kind) or pa.types.is_large_binary(kind)),
        ("time with zone", pa.types.is_timestamp(kind) and kind.tz is not None),
        ("list of integers", pa.types.is_list(kind) and pa.types.is_integer(kind.value_type)),
        ("number", pa.types.is_floating(kind) or pa.types.is_integer(kind)),
    )
    return next((name for name, holds in tests if holds), "another")


def _bytewise(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return text as bytes.

    Parquet does not promise that text is UTF-8, and one bad row must not lose the others.
    """
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = kind_of_column(column.type)
        if kind == "text":
            column = column.cast(pa.large_binary())
        elif kind == "time with zone":
            column = column.cast(pa.timestamp("us", tz="UTC"), safe=False)  # nanoseconds are cut
        elif kind == "number":
            column = column.cast(pa.float64())
        columns[name] = column
    return pa.RecordBatch.from_pydict(columns)


def _raw_row(number: int, row: Mapping[str, object]) -> Raw:
    readable = {
        name: value[:RAW_KEPT].decode(errors="replace") if isinstance(value, bytes) else str(value)
        for name, value in row.items()
        if name != "tensor" and value is not None
    }
    return Raw(number, json.dumps(readable, ensure_ascii=False)[:RAW_KEPT], lambda: _decoded(row))


def _decoded(row: Mapping[str, object]) -> Mapping[str, object]:
    record = dict(row)
    for name, value in row.items():
        if isinstance(value, bytes) and _KINDS[name] == "text":
            try:
                record[name] = value.decode()
            except UnicodeDecodeError:
                raise Bad(f"{name} is not valid UTF-8") from None
        elif value is None:
            del record[name]  # a null column of a required field is a missing field
    return record
