"""Parquet with the columns of our own traffic, from whoever wrote it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import BadInput
from tasks.traffic.formats.raw import RAW_KEPT, Bad, Raw
from tasks.traffic.slices import BUFFER, rows_of_slice

BATCH_ROWS = 1_024
_NAME = ("text", "number", "UUID", "bytes")  # bytes: Impala and old Sparks mark no text
_KINDS: Mapping[str, tuple[str, ...]] = {
    "request_id": _NAME,
    "time": ("time with zone", "text"),
    "tenant": _NAME,
    "domain": _NAME,
    "language": _NAME,
    "text": ("text", "bytes"),
    "tensor": ("bytes", "list of integers", "list of numbers"),
    "shape": ("list of integers",),
    "dtype": ("text",),
    "latency_ms": ("number",),
    "model_version": _NAME,
    "decision": _NAME,
    "label": (*_NAME, "list of integers", "list of numbers", "object"),
}
"""Column -> the kinds that it may be of; the first is what it should be."""
_NAIVE = "time without zone"
_REQUIRED = ("request_id", "time")


def read_rows(path: Path, *, naive: bool = False, elsewhere: Collection[str] = ()) -> Iterator[Raw]:
    """Read every row, BATCH_ROWS or a slice in memory at a time.

    Args:
        path: The file.
        naive: Whether times without a zone are taken.
        elsewhere: Columns that the file may lack.

    Raises:
        BadInput: The file is damaged or has wrong columns.
    """
    try:
        # INT96 counts nanoseconds that an int64 may not hold.
        with pq.ParquetFile(path, buffer_size=BUFFER, coerce_int96_timestamp_unit="us") as file:
            instants = _int96(file)
            names = _check_columns(file.schema_arrow, path, instants, naive, elsewhere)
            number = 0
            for batch in _slices(file, names):
                for row in _plain(batch, instants).to_pylist():
                    number += 1
                    yield _raw_row(number, row)
    except (pa.ArrowException, OverflowError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0].rstrip(".")
        raise BadInput(
            f"{path} is not a whole Parquet file ({reason}): write or fetch it again"
        ) from error


def _int96(file: pq.ParquetFile) -> frozenset[str]:
    """Return the columns of Parquet's old timestamps.

    Spark, Hive and Impala wrote them as instants; their schema has no place to say so.
    """
    columns = (file.schema.column(place) for place in range(len(file.schema)))
    return frozenset(column.path for column in columns if column.physical_type == "INT96")


def _slices(file: pq.ParquetFile, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for place in range(file.num_row_groups):
        rows = rows_of_slice(file.metadata.row_group(place), names, most=BATCH_ROWS)
        yield from file.iter_batches(batch_size=rows, row_groups=[place], columns=names)


def _check_columns(
    schema: pa.Schema,
    path: Path,
    instants: Collection[str],
    naive: bool,
    elsewhere: Collection[str],
) -> list[str]:
    """Return the columns to read; others are ignored."""
    for name in _REQUIRED:
        if name not in schema.names and name not in elsewhere:
            raise BadInput(
                f"{path} has no column {name}: "
                f"it needs {', '.join(_REQUIRED)} and the input's columns"
            )
    names = [name for name in _KINDS if name in schema.names]
    for name in names:
        if schema.names.count(name) > 1:
            raise BadInput(f"{path} has {schema.names.count(name)} columns {name}: write one")
        kind = kind_of_column(schema.field(name).type)
        if kind == _NAIVE and name == "time":
            if name in instants or naive:
                continue
            raise BadInput(
                f"{path} has column time of type {schema.field(name).type}: "
                "it must be time with zone; or say where its clock stood with --timezone "
                "(timezone of a source)"
            )
        if kind not in (*_KINDS[name], "nothing"):
            raise BadInput(
                f"{path} has column {name} of type {schema.field(name).type}: "
                f"it must be {' or '.join(_KINDS[name])}"
            )
    return names


def kind_of_column(kind: pa.DataType) -> str:
    """Tell what a column holds, whichever of Arrow's types for it was chosen."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return "UUID"
        kind = kind.storage_type
    tests: tuple[tuple[str, bool], ...] = (
        ("nothing", pa.types.is_null(kind)),
        (
            "text",
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_string_view(kind),
        ),
        (
            "bytes",
            pa.types.is_binary(kind)
            or pa.types.is_large_binary(kind)
            or pa.types.is_binary_view(kind)
            or pa.types.is_fixed_size_binary(kind),
        ),
        ("time with zone", pa.types.is_timestamp(kind) and kind.tz is not None),
        (_NAIVE, pa.types.is_timestamp(kind)),
        ("list of integers", _is_list(kind) and pa.types.is_integer(_innermost(kind))),
        ("list of numbers", _is_list(kind) and pa.types.is_floating(_innermost(kind))),
        ("object", pa.types.is_struct(kind)),
        (
            "number",
            pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind),
        ),
    )
    return next((name for name, holds in tests if holds), "another")


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _innermost(kind: pa.DataType) -> pa.DataType:
    while _is_list(kind):
        kind = kind.value_type
    return kind


def _plain(batch: pa.RecordBatch, instants: Collection[str]) -> pa.RecordBatch:
    """Return the columns as values that Python has.

    Text comes as bytes: Parquet does not promise that it is UTF-8, and one bad row must not lose
    the others.
    """
    columns, tensor_shape = {}, None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = kind_of_column(column.type)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if isinstance(column.type, pa.BaseExtensionType):
            tensor_shape = getattr(column.type, "shape", None) if name == "tensor" else tensor_shape
            column = column.storage
        columns[name] = _of_kind(column, kind, name, instants)
    if tensor_shape is not None and "shape" not in columns:
        columns["shape"] = pa.array([list(tensor_shape)] * batch.num_rows)
    return pa.RecordBatch.from_pydict(columns)


def _of_kind(column: pa.Array, kind: str, name: str, instants: Collection[str]) -> pa.Array:
    if kind == "text":
        return column.cast(pa.large_binary())
    if kind == "UUID":
        texts = [None if value is None else str(UUID(bytes=value)) for value in column.to_pylist()]
        return pa.array(texts, pa.large_string()).cast(pa.large_binary())
    if kind == "time with zone":
        return column.cast(pa.timestamp("us", tz="UTC"), safe=False)  # nanoseconds are cut
    if kind == _NAIVE:
        column = column.cast(pa.timestamp("us"), safe=False)
        return pc.assume_timezone(column, "UTC") if name in instants else column
    if kind == "number" and name == "latency_ms":
        return column.cast(pa.float64())
    return column


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
        if isinstance(value, bytes) and name != "tensor":
            try:
                record[name] = value.decode()
            except UnicodeDecodeError:
                raise Bad(f"{name} is not valid UTF-8") from None
        elif value is None:
            del record[name]  # a null column of a required field is a missing field
    return record
