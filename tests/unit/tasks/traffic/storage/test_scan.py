"""One pass over stored traffic: what is asked for, whatever the parts look like."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput, NotFound, Tampered
from infra.stores.local import LocalStore
from tasks.records import Request
from tasks.traffic.storage.codec import to_parquet
from tasks.traffic.storage.parts import write_traffic
from tasks.traffic.storage.scan import parts_between, scan, scan_parts
from tasks.traffic.storage.schema import SCHEMA
from tasks.traffic.storage.windows import read_window

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def request(name: str = "r1", time: datetime = NOON, text: str = "a text") -> Request:
    return Request(name, time, "acme", "docs", "en", text)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


def ids(batches: object) -> list[str]:
    return [name for batch in batches for name in batch.column("request_id").to_pylist()]  # type: ignore[attr-defined]


def test_a_scan_gives_the_requests_between_its_ends_and_only_the_columns(store: LocalStore) -> None:
    write_traffic(store, "minilm", [request(f"h{ago}", NOON - ago * HOUR) for ago in range(96)])
    batches = list(scan(store, "minilm", NOON - 3 * HOUR, NOON - HOUR, ["request_id", "language"]))
    assert ids(batches) == ["h2", "h1"]
    assert batches[0].schema.names == ["request_id", "language"]
    assert len(ids(scan(store, "minilm", None, None, ["request_id"]))) == 96


def test_hours_outside_are_not_even_opened(store: LocalStore) -> None:
    write_traffic(store, "minilm", [request(f"h{ago}", NOON - ago * HOUR) for ago in range(96)])
    keys = list(parts_between(store, "minilm", NOON - timedelta(minutes=30), NOON))
    assert [key.split("/")[3] for key in keys] == ["hour=11", "hour=12"]
    for key in store.list("traffic/minilm/"):
        if key not in keys:
            store.put(key, b"no Parquet")
    assert ids(scan(store, "minilm", NOON - timedelta(minutes=30), NOON, ["request_id"])) == ["h0"]


def test_row_groups_inside_the_span_are_read_without_their_times(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_traffic(
        store,
        "minilm",
        [request("a", NOON - HOUR / 2), request("b", NOON), request("c", NOON + HOUR / 2)],
    )
    read: list[list[str]] = []
    iterate = pq.ParquetFile.iter_batches

    def noted(part: pq.ParquetFile, **asked: object) -> object:
        read.append(list(asked["columns"]))  # type: ignore[call-overload]
        return iterate(part, **asked)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    assert ids(scan(store, "minilm", NOON - HOUR, NOON, ["request_id"])) == ["a", "b"]
    assert read == [["request_id"], ["request_id", "time"]]


def test_a_row_without_a_time_is_refused_where_the_others_lie_inside(store: LocalStore) -> None:
    table = pq.read_table(pa.BufferReader(to_parquet([request("a"), request("b")])))
    times = pa.array([NOON, None], SCHEMA.field("time").type)
    sink = pa.BufferOutputStream()
    loose = pa.field("time", times.type)
    pq.write_table(table.set_column(table.column_names.index("time"), loose, times), sink)
    store.put("traffic/minilm/date=2026-03-01/hour=12/part-x.parquet", bytes(sink.getvalue()))
    with pytest.raises(BadInput, match="has rows without time"):
        list(scan(store, "minilm", NOON - HOUR, NOON, ["request_id"]))


def test_an_unknown_column_is_refused(store: LocalStore) -> None:
    with pytest.raises(BadInput, match="traffic has no column txt: it has request_id, time"):
        list(scan(store, "minilm", None, None, ["txt"]))


def test_only_verifying_notices_a_forged_part(store: LocalStore) -> None:
    (key,) = write_traffic(store, "minilm", [request()])
    store.put(key, to_parquet([request("forged")]))
    assert ids(scan(store, "minilm", None, None, ["request_id"])) == ["forged"]
    with pytest.raises(Tampered, match="does not match the digest in its name"):
        list(scan(store, "minilm", None, None, ["request_id"], verify=True))


def test_a_part_that_disappears_after_the_listing_is_named(store: LocalStore) -> None:
    _, second = write_traffic(store, "minilm", [request("a"), request("b", NOON + HOUR)])
    batches = scan(store, "minilm", None, None, ["request_id"])
    assert ids([next(batches)]) == ["a"]
    store.delete(second)
    with pytest.raises(
        NotFound, match=rf"{second} was deleted .* between listing and reading: run again"
    ):
        next(batches)
    with pytest.raises(NotFound):
        list(scan_parts(store, [second], ["request_id"], verify=True))


def test_a_part_that_disappears_inside_a_window_is_named(store: LocalStore) -> None:
    first, _ = write_traffic(store, "minilm", [request("a"), request("b", NOON + HOUR)])
    requests = read_window(store, "minilm", hours=2, until=NOON + HOUR).requests
    assert [one.request_id for one in requests] == ["a", "b"]
    store.delete(first)
    with pytest.raises(
        NotFound, match=rf"^{first} was deleted from .* between listing and reading: run again"
    ) as gone:
        list(requests)
    assert "check the name" not in str(gone.value)


def test_a_damaged_part_is_named(store: LocalStore) -> None:
    (key,) = write_traffic(store, "minilm", [request()])
    store.put(key, store.get(key)[:-30])
    with pytest.raises(BadInput, match=f"{key} is not a whole Parquet file"):
        list(scan(store, "minilm", None, None, ["request_id"]))


# --- schema evolution


@pytest.fixture
def altered(store: LocalStore) -> Callable[[Callable[[pa.Table], pa.Table]], list[pa.RecordBatch]]:
    """Change one part, and scan it for three columns."""

    def change(how: Callable[[pa.Table], pa.Table]) -> list[pa.RecordBatch]:
        table = how(pq.read_table(pa.BufferReader(to_parquet([replace(request(), label="7")]))))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        key = "traffic/minilm/date=2026-03-01/hour=12/part-x.parquet"
        store.put(key, bytes(sink.getvalue()))
        return list(scan(store, "minilm", None, NOON, ["request_id", "label", "latency_ms"]))

    return change


Altered = Callable[[Callable[[pa.Table], pa.Table]], list[pa.RecordBatch]]


def test_an_added_column_changes_nothing(altered: Altered) -> None:
    (batch,) = altered(lambda table: table.append_column("mood", pa.array(["good"])))
    assert batch.to_pylist() == [{"request_id": "r1", "label": "7", "latency_ms": None}]


def test_an_optional_column_that_is_missing_reads_as_null(altered: Altered) -> None:
    (batch,) = altered(lambda table: table.drop_columns(["label"]))
    assert batch.to_pylist() == [{"request_id": "r1", "label": None, "latency_ms": None}]


def renamed(table: pa.Table) -> pa.Table:
    names = ["truth" if name == "label" else name for name in table.column_names]
    return table.rename_columns(names).replace_schema_metadata(table.schema.metadata)


def test_a_renamed_column_is_refused_by_both_names(altered: Altered) -> None:
    with pytest.raises(
        BadInput, match="no column label but an unknown column truth, as if it were renamed"
    ):
        altered(renamed)
    with pytest.raises(BadInput, match="has no column request_id"):
        altered(lambda table: table.drop_columns(["request_id"]))


def test_another_arrow_type_of_the_same_kind_is_cast_and_another_kind_is_refused(
    altered: Altered,
) -> None:
    def with_labels(labels: pa.Array) -> Callable[[pa.Table], pa.Table]:
        return lambda table: table.set_column(table.column_names.index("label"), "label", labels)

    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        (batch,) = altered(with_labels(pa.array(["7"]).cast(kind)))
        assert batch.column("label").to_pylist() == ["7"]
        assert batch.schema.field("label").type == pa.string()
    with pytest.raises(BadInput, match="has column label of type int64, not string"):
        altered(with_labels(pa.array([7])))


def test_another_version_is_refused(altered: Altered) -> None:
    with pytest.raises(BadInput, match="schema version 2, not 1"):
        altered(lambda table: table.replace_schema_metadata({"requant.traffic.version": "2"}))


def test_text_that_is_no_utf8_is_refused(altered: Altered) -> None:
    broken = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    )
    with pytest.raises(BadInput, match=r"column label of .* is not valid UTF-8"):
        altered(lambda table: table.set_column(table.column_names.index("label"), "label", broken))


# --- schema evolution of what windows read


@pytest.fixture
def window_of(store: LocalStore) -> Callable[[Callable[[pa.Table], pa.Table]], list[Request]]:
    """Change one part, store it under its own digest, and read it as a window."""

    def change(how: Callable[[pa.Table], pa.Table]) -> list[Request]:
        sink = pa.BufferOutputStream()
        pq.write_table(how(pq.read_table(pa.BufferReader(to_parquet([KEPT])))), sink)
        data = bytes(sink.getvalue())
        store.put(
            f"traffic/minilm/date=2026-03-01/hour=12/part-{sha256(data).hexdigest()[:32]}.parquet",
            data,
        )
        return list(read_window(store, "minilm", hours=1, until=NOON).requests)

    return change


KEPT = Request(
    "r1", NOON, "acme", "docs", "en", np.ones((2, 2), np.float32), latency_ms=2.0, label="7"
)
WindowOf = Callable[[Callable[[pa.Table], pa.Table]], list[Request]]


def typed(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def cast(table: pa.Table) -> pa.Table:
        column = pa.array(table.column(name).to_pylist(), kind)
        return table.set_column(table.column_names.index(name), name, column)

    return cast


def test_a_window_reads_parts_from_before_and_after_a_column_was_added(window_of: WindowOf) -> None:
    newer = window_of(lambda table: table.append_column("mood", pa.array(["good"])))
    older = window_of(lambda table: table.drop_columns(["label", "text"]))
    assert [one.label for one in newer] == ["7"]
    assert sorted((one.request_id, one.label or "none") for one in older) == [
        ("r1", "7"),
        ("r1", "none"),
    ]
    assert all(np.array_equal(one.payload, KEPT.payload) for one in older)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("label", pa.large_string()),
        ("label", pa.dictionary(pa.int32(), pa.large_string())),
        ("tensor", pa.large_binary()),
        ("shape", pa.list_(pa.int64())),
        ("time", pa.timestamp("ns", "UTC")),
        ("time", pa.timestamp("us", "Asia/Tokyo")),
        ("latency_ms", pa.int64()),
    ],
)
def test_a_window_reads_another_arrow_type_of_the_same_kind(
    window_of: WindowOf, name: str, kind: pa.DataType
) -> None:
    (found,) = window_of(typed(name, kind))
    assert (found.request_id, found.time, found.latency_ms, found.label) == ("r1", NOON, 2.0, "7")
    assert np.array_equal(found.payload, KEPT.payload)


def latency_as_text(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index("latency_ms"), "latency_ms", pa.array(["2"]))


def without_tenant(table: pa.Table) -> pa.Table:
    nameless = pa.field("tenant", pa.string())
    return table.set_column(table.column_names.index("tenant"), nameless, pa.nulls(1, pa.string()))


def a_nanosecond_late(table: pa.Table) -> pa.Table:
    late = pa.array([int(NOON.timestamp()) * 10**9 + 1], pa.timestamp("ns", "UTC"))
    return table.set_column(table.column_names.index("time"), "time", late)


def with_broken_text(table: pa.Table) -> pa.Table:
    broken = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    )
    return table.set_column(table.column_names.index("text"), "text", broken)


PART = "traffic/minilm/date=2026-03-01/hour=12/part-[0-9a-f]{32}.parquet"


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (
            latency_as_text,
            f"^{PART} has column latency_ms of type string, not double: import it again$",
        ),
        (
            renamed,
            f"^{PART} has no column label but an unknown column truth, as if it were renamed",
        ),
        (lambda table: table.drop_columns(["tenant"]), f"^{PART} has no column tenant: import"),
        (without_tenant, f"^{PART} has rows without tenant: import"),
        (
            a_nanosecond_late,
            f"^{PART} has column time of type .*ns.*, with values that do not fit .*us",
        ),
        (with_broken_text, f"^column text of {PART} is not valid UTF-8"),
    ],
)
def test_a_window_refuses_by_column_and_part_what_it_cannot_read(
    window_of: WindowOf, how: Callable[[pa.Table], pa.Table], sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        window_of(how)


# --- clocks


def test_a_request_from_the_future_does_not_move_the_window(store: LocalStore) -> None:
    write_traffic(
        store, "minilm", [request("now"), request("broken clock", NOON + timedelta(days=300))]
    )
    window = read_window(store, "minilm", hours=2, now=NOON)
    assert window.end == NOON
    assert [one.request_id for one in window.requests] == ["now"]


def test_a_request_from_the_future_is_scanned_only_when_asked_for(store: LocalStore) -> None:
    write_traffic(
        store, "minilm", [request("now"), request("broken clock", NOON + timedelta(days=300))]
    )
    assert ids(scan(store, "minilm", None, NOON, ["request_id"])) == ["now"]
    assert len(ids(scan(store, "minilm", None, None, ["request_id"]))) == 2


# --- memory

_LARGE = """
import resource, sys
from infra.stores.local import LocalStore
from tasks.traffic.storage.scan import scan
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
batches = scan(LocalStore(sys.argv[1]), "m", None, None, ["request_id", "text"])
rows = sum(batch.num_rows for batch in batches)
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_row_group_larger_than_memory_should_hold_is_read_in_slices(tmp_path: Path) -> None:
    """One row group of 200 MB of text, a scaled-down gigabyte: a fraction of it is in memory."""
    store = LocalStore(str(tmp_path / "store"))
    rows = 100_000
    texts = pa.array([f"{number:08d}" * 250 for number in range(rows)])
    facts = {name: pa.array(["x"] * rows) for name in ("tenant", "domain", "language")}
    times = pa.array([NOON] * rows, SCHEMA.field("time").type)
    known = {
        "request_id": pa.array([str(number) for number in range(rows)]),
        "time": times,
        "text": texts,
        **facts,
    }
    columns = [known.get(field.name, pa.nulls(rows, field.type)) for field in SCHEMA]
    path = tmp_path / "store/traffic/m/date=2026-03-01/hour=12/part-x.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(
        pa.Table.from_arrays(columns, schema=SCHEMA),
        path,
        row_group_size=rows,
        use_dictionary=False,
    )
    assert pq.ParquetFile(path).num_row_groups == 1
    command = [sys.executable, "-c", _LARGE, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scanned, megabytes = map(int, done.stdout.split())
    assert scanned == rows
    assert megabytes < 110, megabytes
    assert store.exists("traffic/m/date=2026-03-01/hour=12/part-x.parquet")
