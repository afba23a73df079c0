"""The one schema of stored traffic, samples and calibration sets.

It also says how a part of an older or newer schema is read.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from infra.errors import BadInput
from tasks.payloads import PAYLOAD_FIELDS
from tasks.traffic.formats.tables.columns import kind_of_column

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


def present(fields: Iterable[pa.Field], stored: pa.Schema, where: str) -> list[str]:
    """Return the names of these fields that a file holds.

    An optional field that it was written without reads as null.

    Raises:
        BadInput: For another version, a column of another kind, and a missing column that is
            required or may have been renamed. Beside a column that nobody knows, null would be
            wrong.
    """
    _require_version(stored, where)
    return [field.name for field in fields if _is_there(field, stored, where)]


def conform(batch: pa.RecordBatch, fields: Iterable[pa.Field], where: str) -> pa.RecordBatch:
    """Return the batch with exactly these fields.

    A column is cast where Arrow has several types for one kind, and null where it is not there.

    Raises:
        BadInput: For values that do not fit, for text that is not UTF-8 and for null in a required
            column; it names the column.
    """
    schema = pa.schema(list(fields))
    return pa.RecordBatch.from_arrays(
        [_column(batch, field, where) for field in schema], schema=schema
    )


def _require_version(stored: pa.Schema, where: str) -> None:
    version = (stored.metadata or {}).get(_METADATA_KEY, b"none").decode(errors="replace")
    if version != str(VERSION):
        raise BadInput(
            f"{where} has traffic schema version {version}, not {VERSION}: import the traffic again"
        )


def _is_there(field: pa.Field, stored: pa.Schema, where: str) -> bool:
    if field.name in stored.names:
        kind = stored.field(field.name).type
        if kind_of_column(kind) != kind_of_column(field.type):
            raise BadInput(
                f"{where} has column {field.name} of type {kind}, not {field.type}: import it again"
            )
        return True
    strange = [name for name in stored.names if name not in SCHEMA.names]
    if not field.nullable or strange:
        beside = f" but an unknown column {strange[0]}, as if it were renamed" if strange else ""
        raise BadInput(f"{where} has no column {field.name}{beside}: import the traffic again")
    return False


def _column(batch: pa.RecordBatch, field: pa.Field, where: str) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, field.type)
    column = _cast(batch.column(field.name), field, where)
    if not field.nullable and column.null_count:
        raise BadInput(f"{where} has rows without {field.name}: import the traffic again")
    if pa.types.is_string(column.type):
        try:
            column.validate(full=True)  # Parquet does not promise that text is UTF-8
        except pa.ArrowInvalid as error:
            raise BadInput(
                f"column {field.name} of {where} is not valid UTF-8: import the traffic again"
            ) from error
    return column


def _cast(column: pa.Array, field: pa.Field, where: str) -> pa.Array:
    if column.type == field.type:
        return column
    try:
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        return plain.cast(field.type)
    except pa.ArrowException as error:
        raise BadInput(
            f"{where} has column {field.name} of type {column.type}, "
            f"with values that do not fit {field.type}: import it again"
        ) from error
