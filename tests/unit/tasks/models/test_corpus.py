"""Shipped data: read as requests, or refused with the row and the column."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput
from tasks.models.corpus import COLUMNS, EPOCH, read_corpus
from tasks.payloads import PAYLOAD_FIELDS, encode

EXAMPLES = Path(__file__).parents[4] / "examples"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        *PAYLOAD_FIELDS,
        ("domain", pa.string()),
        ("language", pa.string()),
        ("label", pa.string()),
    ]
)


def row(number: int, **changes: object) -> dict[str, object]:
    about = {"id": f"r{number}", "domain": "docs", "language": "en", "label": None}
    return about | encode(f"text {number}") | changes


def corpus(*rows: dict[str, object], without: str | None = None) -> bytes:
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    buffer = BytesIO()
    pq.write_table(table.drop_columns([without]) if without else table, buffer)
    return buffer.getvalue()


def test_rows_become_requests_of_the_corpus() -> None:
    tensor = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    first, second = read_corpus(corpus(row(0), row(1, label="7", **encode(tensor))), where="pool")
    assert (first.request_id, first.payload, first.tenant, first.time) == (
        "r0",
        "text 0",
        "corpus",
        EPOCH,
    )
    assert second.label == "7"
    assert isinstance(second.payload, np.ndarray)
    assert (second.payload == tensor).all()


@pytest.mark.parametrize("name", ["digits", "minilm"])
@pytest.mark.parametrize("file", ["calibration.parquet", "traffic.parquet"])
def test_the_shipped_corpora_are_read(name: str, file: str) -> None:
    assert len(read_corpus((EXAMPLES / name / file).read_bytes(), where=file)) > 100


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column: str) -> None:
    with pytest.raises(BadInput, match=f"pool lacks the columns {column}"):
        read_corpus(corpus(row(0), without=column), where="pool")


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"id": ""},
        {"domain": None},
        {"language": ""},
        {"text": None},
        {"tensor": b"1234"},
    ],
    ids=["no id", "empty id", "no domain", "empty language", "no payload", "both payloads"],
)
def test_a_wrong_row_is_named_by_its_number(changes: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="pool, row 1: "):
        read_corpus(corpus(row(0), row(1, **changes)), where="pool")


def test_an_id_that_two_rows_share_is_bad_input() -> None:
    with pytest.raises(BadInput, match="2 rows have the id 'r0'"):
        read_corpus(corpus(row(0), row(1), row(0)), where="pool")


def test_no_rows_are_bad_input() -> None:
    with pytest.raises(BadInput, match="pool has no rows"):
        read_corpus(corpus(), where="pool")


@pytest.mark.parametrize("data", [b"", b"garbage", corpus(row(0))[:-8]])
def test_what_is_no_parquet_file_is_bad_input_in_one_sentence(data: bytes) -> None:
    with pytest.raises(BadInput, match="pool is not a readable Parquet file") as caught:
        read_corpus(data, where="pool")
    assert "\n" not in str(caught.value)
