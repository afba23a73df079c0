"""Parquet as Spark, pandas, Arrow and Delta write it."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput
from tasks.records import Request
from tasks.specs.spec import Task
from tasks.traffic.formats import TrafficFormat, format_of
from tests.unit.tasks.traffic.formats.reading import ELEVEN, read, write_lines

TEXT, IMAGE = Task.TEXT_EMBEDDING, Task.IMAGE_CLASSIFICATION
TIMES = pa.array([ELEVEN, ELEVEN + timedelta(seconds=1)], pa.timestamp("us", tz="UTC"))
NAIVE = TIMES.cast(pa.timestamp("us"))


def table(**columns: Any) -> pa.Table:
    return pa.table({"request_id": ["a", "b"], "time": TIMES, "text": ["x", "y"]} | columns)


def read_table(
    path: Path, source: pa.Table, task: Task = TEXT, **more: Any
) -> tuple[list[Request], list[str]]:
    pq.write_table(source, path / "in.parquet")
    requests, reasons, _ = read(path / "in.parquet", TrafficFormat.PARQUET, task, **more)
    return requests, reasons


def spark(root: Path, languages: Sequence[str], *, rows: int = 2, int96: bool = False) -> Path:
    """Write a folder as Spark does: partitions, checksums, a marker, and what it did not finish."""
    for language in languages:
        folder = root / f"dt=2026-03-01/language={language}"
        folder.mkdir(parents=True)
        ids = [f"{language}-{row}" for row in range(rows)]
        written = pa.table({"request_id": ids, "time": TIMES[:rows], "text": ids})
        pq.write_table(
            written,
            folder / "part-00000-c000.snappy.parquet",
            use_deprecated_int96_timestamps=int96,
            store_schema=False,
        )
        (folder / ".part-00000-c000.snappy.parquet.crc").write_bytes(b"crc")
    (root / "_temporary/0").mkdir(parents=True)
    (root / "_temporary/0/part-1.parquet").write_bytes(b"half")
    (root / "_SUCCESS").touch()
    return root


@pytest.mark.parametrize("int96", [False, True])
def test_a_folder_of_spark_is_read_with_its_partitions(tmp_path: Path, int96: bool) -> None:
    languages = ("en", "zh%2DHans", "__HIVE_DEFAULT_PARTITION__")
    root = spark(tmp_path / "traffic", languages, int96=int96)
    requests, reasons, _ = read(root, None, TEXT)
    assert reasons == []
    assert {request.language for request in requests} == {"en", "zh-Hans", "unknown"}
    assert {request.time for request in requests} == {ELEVEN, ELEVEN + timedelta(seconds=1)}


def test_files_without_rows_are_read(tmp_path: Path) -> None:
    requests, reasons, _ = read(spark(tmp_path / "t", ["en"], rows=0), None, TEXT)
    assert (requests, reasons) == ([], [])


def test_partitions_of_json_lines_are_columns_too_and_never_overrule_a_record(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "language=ja"
    folder.mkdir()
    row = {"request_id": "a", "time": ELEVEN.isoformat(), "text": "x"}
    rows = [row, {**row, "request_id": "b", "language": "en"}]
    write_lines(folder / "part-0.jsonl", rows)
    (request,), reasons, _ = read(tmp_path, None, TEXT)
    assert request.language == "ja"
    assert reasons == ["language differs between the record and the name of its folder"]


def test_of_a_delta_table_the_files_count_that_its_log_has_left(tmp_path: Path) -> None:
    for name in ("old", "new"):
        ids = [f"{name}-1", f"{name}-2"]
        pq.write_table(table(request_id=ids), tmp_path / f"{name}.parquet")
    log = tmp_path / "_delta_log"
    log.mkdir()
    actions = ([{"add": {"path": "old.parquet"}}], [{"add": {"path": "new.parquet"}}])
    write_lines(log / f"{0:020}.json", actions[0])
    write_lines(log / f"{1:020}.json", [*actions[1], {"remove": {"path": "old.parquet"}}])
    requests, _, _ = read(tmp_path, None, TEXT)
    assert {request.request_id for request in requests} == {"new-1", "new-2"}
    (log / f"{0:020}.json").unlink()
    with pytest.raises(BadInput, match=r"Delta table .* begins with a checkpoint"):
        read(tmp_path, None, TEXT)


def test_a_folder_of_several_formats_asks_which(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.jsonl"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadInput, match="--format, one of"):
        format_of(tmp_path)


def test_times_without_a_zone_are_taken_by_an_explicit_one_alone(tmp_path: Path) -> None:
    source = table(time=NAIVE)
    with pytest.raises(BadInput, match=r"time with zone; or say .* --timezone"):
        read_table(tmp_path, source)
    requests, _ = read_table(tmp_path, source, zone=ZoneInfo("Europe/Berlin"))
    assert requests[0].time == ELEVEN - timedelta(hours=1)


def test_an_hour_that_a_clock_skips_or_repeats_is_never_guessed(tmp_path: Path) -> None:
    moments = [
        datetime(2025, 10, 26, 2, 30),  # it is naive on purpose
        datetime(2025, 3, 30, 2, 30),
        datetime(2025, 3, 30, 3, 30),
    ]
    rows = [
        {"request_id": str(place), "time": moment.isoformat(), "text": "x"}
        for place, moment in enumerate(moments)
    ]
    path = write_lines(tmp_path / "in.jsonl", rows)
    (request,), reasons, _ = read(path, None, TEXT, zone=ZoneInfo("Europe/Berlin"))
    assert request.request_id == "2"
    assert set(reasons) == {
        "time lies in an hour that its clock skips or repeats: end it with an offset"
    }
    _, refused, _ = read(path, None, TEXT)
    assert all("has no time zone: end it with Z or an offset, or say" in one for one in refused)


@pytest.mark.parametrize("text", ["2026-03-01 11:00:00 UTC", "2026-03-01T11:00:00.000+0000"])
def test_times_may_be_text(tmp_path: Path, text: str) -> None:
    requests, _ = read_table(tmp_path, table(time=[text, text]))
    assert requests[0].time == ELEVEN


def test_a_day_without_a_time_is_no_time(tmp_path: Path) -> None:
    requests, reasons = read_table(tmp_path, table(time=["2026-03-01"] * 2), zone=ZoneInfo("UTC"))
    assert requests == []
    assert "is not ISO 8601" in reasons[0]


@pytest.mark.parametrize(
    ("kind", "values", "wanted"),
    [
        (pa.int64(), [3, None], "3"),
        (pa.int64(), [2**60 + 1, 0], str(2**60 + 1)),
        (pa.float64(), [3.0, float("nan")], "3"),  # pandas, where a value is missing
        (pa.float64(), [2.5, None], "2.5"),
        (pa.decimal128(5, 2), [Decimal("3.00"), None], "3"),
        (pa.decimal128(5, 2), [Decimal("1.50"), None], "1.5"),
        (pa.large_list(pa.int64()), [[3, 0], None], "[3, 0]"),
        (
            pa.struct({"boxes": pa.list_(pa.float32())}),
            [{"boxes": [0.5]}, None],
            '{"boxes": [0.5]}',
        ),
        (pa.large_string(), ["3", None], "3"),
        (pa.string_view(), ["3", None], "3"),
        (pa.dictionary(pa.int32(), pa.large_string()), ["3", None], "3"),
        (pa.dictionary(pa.int8(), pa.int64()), [3, None], "3"),
    ],
)
def test_labels_may_be_of_any_type_that_names_something(
    tmp_path: Path, kind: pa.DataType, values: list[Any], wanted: str
) -> None:
    requests, reasons = read_table(tmp_path, table(label=pa.array(values, kind)))
    assert reasons == []
    assert requests[0].label == wanted


def test_ids_and_tenants_may_be_integers_or_uuids(tmp_path: Path) -> None:
    ids = pa.array([UUID(int=1).bytes, UUID(int=2).bytes], pa.uuid())
    requests, _ = read_table(tmp_path, table(request_id=ids, tenant=[7, 8]))
    assert (requests[0].request_id, requests[0].tenant) == (str(UUID(int=1)), "7")
    rows = [{"request_id": 5, "time": ELEVEN.isoformat(), "text": "x", "label": 3}]
    (request,), _, _ = read(write_lines(tmp_path / "in.jsonl", rows), None, TEXT)
    assert (request.request_id, request.label) == ("5", "3")


def test_text_that_its_writer_left_unmarked_is_text_where_it_is_utf8(tmp_path: Path) -> None:
    source = table(text=pa.array([b"x", b"\xff"]), language=pa.array([b"en", b"en"]))
    (request,), (reason,) = read_table(tmp_path, source)
    assert (request.payload, request.language) == ("x", "en")
    assert reason == "text is not valid UTF-8"


def test_a_boolean_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="column label of type bool: it must be text"):
        read_table(tmp_path, table(label=[True, False]))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[0.0, 1, 2, 3]] * 2, pa.list_(pa.float32())),
        pa.array([[0.0, 1, 2, 3]] * 2, pa.large_list(pa.float64())),
        pa.array([[0.0, 1, 2, 3]] * 2, pa.list_(pa.float32(), 4)),
        pa.array([[0, 1, 2, 3]] * 2, pa.large_list(pa.int64())),
        pa.array([[[[0.0, 1], [2, 3]]]] * 2),
        pa.array([np.arange(4, dtype="<f4").tobytes()] * 2, pa.binary(16)),
        pa.array([np.arange(4, dtype="<f4").tobytes()] * 2, pa.large_binary()),
        pa.FixedShapeTensorArray.from_numpy_ndarray(
            np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2).repeat(2, axis=0)
        ),
    ],
)
def test_tensors_may_be_lists_or_bytes(tmp_path: Path, column: pa.Array) -> None:
    source = table(tensor=column).drop_columns("text")
    requests, reasons = read_table(tmp_path, source, IMAGE, shape=(1, 2, 2))
    assert reasons == []
    np.testing.assert_array_equal(np.asarray(requests[0].payload), [[[0, 1], [2, 3]]])


def test_a_frame_of_pandas_is_read_as_it_is_written(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "request_id": [1, 2],
            "time": pd.to_datetime([ELEVEN, ELEVEN]),
            "text": pd.Categorical(["x", "y"]),
            "language": ["en", None],
            "label": [3, None],
            "latency_ms": [Decimal("1.5"), Decimal("2.5")],
            "tags": [{"a": 1}, {"a": 2}],
        }
    )
    frame.to_parquet(tmp_path / "in.parquet")
    requests, reasons, _ = read(tmp_path / "in.parquet", None, TEXT)
    assert reasons == []
    first, second = requests
    assert (first.request_id, first.label, first.latency_ms) == ("1", "3", 1.5)
    assert (second.language, second.label) == ("unknown", None)


def test_what_a_row_holds_instead_is_told_without_its_content(tmp_path: Path) -> None:
    source = table(request_id=pa.array(["a", None]), text=["x", None])
    requests, reasons = read_table(tmp_path, source)
    assert len(requests) == 1
    assert reasons == ["text is missing: this model reads text"]
    assert json.dumps(reasons).isascii()
