"""Traffic at the edge, in the store and back."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput, Tampered
from infra.stores.local import LocalStore
from tasks.payloads import fingerprint
from tasks.records import Request
from tasks.specs.spec import Task
from tasks.traffic.imports import Import, read_import
from tasks.traffic.rejects import Reject, write_rejects
from tasks.traffic.storage.codec import from_parquet, to_parquet
from tasks.traffic.storage.parts import write_traffic
from tasks.traffic.storage.schema import SCHEMA
from tasks.traffic.storage.windows import read_window

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def request(
    name: str = "r1", time: datetime = NOON, payload: Any = "a text", **more: Any
) -> Request:
    return Request(name, time, more.pop("tenant", "acme"), "docs", "en", payload, **more)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


# --- the codec


def test_requests_come_back_as_they_were() -> None:
    kept = request(latency_ms=1.5, model_version="3", decision="allowed", label="x")
    image = request("r2", payload=np.arange(4, dtype=np.float32).reshape(1, 2, 2))
    text, tensor = from_parquet(to_parquet([kept, image]), where="x")
    assert text == kept
    assert text.time.tzinfo is UTC
    assert fingerprint(tensor.payload) == fingerprint(image.payload)


def test_equal_requests_give_equal_bytes() -> None:
    assert to_parquet([request()]) == to_parquet([request()])


def test_no_requests_are_a_file_too() -> None:
    assert from_parquet(to_parquet([]), where="x") == ()


def test_a_truncated_file_is_refused_in_one_sentence() -> None:
    data = to_parquet([request()])
    for broken in (data[:-20], data[: len(data) // 2], b"", b"PAR1"):
        with pytest.raises(BadInput, match=r"^part\.parquet is not a whole Parquet file") as caught:
            from_parquet(broken, where="part.parquet")
        assert "\n" not in str(caught.value)


def altered(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def test_another_schema_version_or_none_is_refused() -> None:
    table = pq.read_table(pa.BufferReader(to_parquet([request()])))
    with pytest.raises(BadInput, match="schema version 2, not 1"):
        from_parquet(
            altered(table.replace_schema_metadata({"requant.traffic.version": "2"})), where="x"
        )
    with pytest.raises(BadInput, match="schema version none, not 1"):
        from_parquet(altered(table.replace_schema_metadata(None)), where="x")


def test_a_missing_column_and_a_wrong_type_are_named() -> None:
    table = pq.read_table(pa.BufferReader(to_parquet([request()])))
    with pytest.raises(BadInput, match="x has no column language"):
        from_parquet(altered(table.drop_columns(["language"])), where="x")
    number = table.set_column(table.schema.names.index("domain"), "domain", pa.array([5]))
    with pytest.raises(BadInput, match="x has column domain of type int64, not string"):
        from_parquet(altered(number), where="x")


def test_a_row_without_an_input_is_named() -> None:
    table = pa.Table.from_pylist(
        [{"request_id": "a", "time": NOON, "tenant": "t", "domain": "d", "language": "l"}],
        schema=pa.schema([field.with_nullable(True) for field in SCHEMA], metadata=SCHEMA.metadata),
    )
    with pytest.raises(BadInput, match="row 1 of x holds no input"):
        from_parquet(altered(table), where="x")


# --- imports


def lines(
    tmp_path: Path, *records: object, task: Task = Task.TEXT_EMBEDDING, **more: Any
) -> Import:
    path = tmp_path / "in.jsonl"
    path.write_bytes(
        b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records)
    )
    return read_import(path, task=task, now=NOON, **more)


def record(**changes: object) -> dict[str, object]:
    whole = {"request_id": "r1", "time": "2026-03-01T12:00:00Z", "text": "hello", **changes}
    return {name: value for name, value in whole.items() if value is not ...}


def test_a_good_line_becomes_a_request_with_defaults(tmp_path: Path) -> None:
    found = lines(tmp_path, record(time="2026-03-01T13:00:00+01:00", surplus={"ignored": 1}))
    assert found.rejected == ()
    assert found.accepted == (Request("r1", NOON, "default", "unknown", "unknown", "hello"),)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(text=""), "text is empty"),
        (record(text=" \n"), "text is empty"),
        (record(text=...), "text is missing"),
        (record(text=5), "text is a number, not text"),
        (record(text="x" * 1_000_001), "text has 1000001 bytes: at most 1000000"),
        (record(text="x" * 10_000_000), "text has 10000000 bytes"),
        (record(text="x" * 20_000_000), "the line has more than 16000000 bytes"),
        (record(text="\ud800"), "text holds half a surrogate pair"),
        (record(request_id=...), "request_id is missing"),
        (record(request_id=""), "request_id: string should have at least 1 character"),
        (record(request_id=True), "request_id: input should be a valid string"),
        (record(time=...), "time is missing"),
        (record(time="yesterday"), "time is not ISO 8601"),
        (record(time=1767225600), "time is not ISO 8601"),
        (record(time="2026-03-01T12:00:00"), "time has no time zone: end it with Z"),
        (record(time="2026-03-01T14:00:00Z"), "time lies in the future"),
        (record(time="0001-01-01T00:00:00+05:00"), "time lies outside the calendar"),
        (record(latency_ms="fast"), "latency_ms: input should be a valid number"),
        (record(latency_ms=float("nan")), "latency_ms: input should be a finite number"),
        (record(label=[float("nan")]), "label holds what JSON has not, such as NaN"),
        (record(domain=[1]), "domain: input should be a valid string"),
        (b'{"request_id": "caf\xe9"}', "the line is not valid UTF-8 at byte 20"),
        (b"{not json}", "the line is not JSON"),
        (b"[" * 100_000, "the line is not JSON"),
        (b'{"request_id": ' + b"1" * 5000 + b"}", "the line is not JSON"),
        (b"[1, 2]", "the line is not a JSON object"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason_and_loses_no_other(
    tmp_path: Path, bad: object, reason: str
) -> None:
    found = lines(tmp_path, record(request_id="before"), bad, record(request_id="after"))
    assert [one.request_id for one in found.accepted] == ["before", "after"]
    (reject,) = found.rejected
    assert reject.line_or_row == 2
    assert reason in reject.reason
    assert len(reject.raw) <= 4000


@pytest.mark.parametrize(
    ("label", "kept"),
    [
        ("a sentence " * 100, "a sentence " * 100),
        ({"boxes": [[0, 1, 2, 3]], "labels": [0]}, '{"boxes": [[0, 1, 2, 3]], "labels": [0]}'),
        ([0, 1], "[0, 1]"),
        (0, "0"),
    ],
)
def test_a_label_is_words_a_number_or_json_of_any_length(
    tmp_path: Path, label: object, kept: str
) -> None:
    taken = lines(tmp_path, record(label=label))
    assert [request.label for request in taken.accepted] == [kept], taken.rejected


def test_blank_lines_and_a_byte_order_mark_are_no_records(tmp_path: Path) -> None:
    found = lines(tmp_path, b"\xef\xbb\xbf" + json.dumps(record()).encode(), b"", b"   ")
    assert (len(found.accepted), len(found.rejected)) == (1, 0)


def image(**fields: object) -> dict[str, object]:
    return record(text=..., **fields)


PACKED = base64.b64encode(np.arange(4, dtype="<f4").tobytes()).decode()


@pytest.mark.parametrize(
    "fields",
    [
        {"tensor": [[0, 1], [2, 3.0]]},
        {"tensor_b64": PACKED},
        {"tensor_b64": PACKED, "shape": [2, 2]},
    ],
)
def test_a_tensor_is_read_from_lists_or_from_bytes(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    found = lines(tmp_path, image(**fields), task=Task.IMAGE_CLASSIFICATION, shape=(2, 2))
    (only,) = found.accepted
    np.testing.assert_array_equal(only.payload, np.arange(4, dtype=np.float32).reshape(2, 2))
    assert only.payload.dtype == np.float32


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tensor": [[0, 1]]}, "tensor has shape [1, 2]: this model reads [2, 2]"),
        ({"tensor": [[0, 1], [2, float("nan")]]}, "tensor holds NaN or infinite values"),
        ({"tensor": [[0, 1], [2, 1e39]]}, "tensor holds NaN or infinite values"),
        ({"tensor": [[0, 1], [2]]}, "tensor is ragged"),
        ({"tensor": [["0", "1"], ["2", "3"]]}, "tensor is not nested lists of numbers"),
        ({"tensor": "0 1 2 3"}, "tensor is not nested lists of numbers"),
        ({"tensor": [[0, None], [2, 3]]}, "tensor is not nested lists of numbers"),
        ({"tensor_b64": PACKED[:-4]}, "bytes, but shape [2, 2] of float32 needs 16"),
        ({"tensor_b64": PACKED, "shape": [4]}, "tensor has shape [4]"),
        (
            {"tensor_b64": PACKED, "shape": [-2, -2]},
            "shape is missing or not a list of positive integers",
        ),
        ({"tensor_b64": "!!!"}, "tensor_b64 is not base64"),
        ({"text": "hello"}, "tensor is missing: this model reads tensors"),
    ],
)
def test_a_bad_tensor_is_set_aside_with_its_reason(
    tmp_path: Path, fields: dict[str, object], reason: str
) -> None:
    found = lines(tmp_path, {**image(), **fields}, task=Task.IMAGE_CLASSIFICATION, shape=(2, 2))
    assert found.accepted == ()
    assert reason in found.rejected[0].reason


def test_a_waveform_may_have_any_length_and_only_one_axis(tmp_path: Path) -> None:
    good = [
        image(tensor_b64=PACKED),
        image(request_id="r2", tensor=[0.5, -0.5]),
        image(request_id="r3", tensor=[[0.5]]),
    ]
    found = lines(tmp_path, *good, task=Task.SPEECH_RECOGNITION, shape=(-1,))
    assert [np.asarray(one.payload).tolist() for one in found.accepted] == [
        [0, 1, 2, 3],
        [0.5, -0.5],
    ]
    assert (
        found.rejected[0].reason
        == "tensor has shape [1, 1]: this model reads one row of any length"
    )


@pytest.mark.parametrize("name", ["absent.jsonl", "absent.parquet", "traffic.csv"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=name):
        read_import(tmp_path / name, task=Task.TEXT_EMBEDDING)


def columns(**changes: object) -> dict[str, object]:
    return {
        "request_id": ["a", "b"],
        "time": pa.array([NOON, NOON]),
        "text": ["hello", "hi"],
        **changes,
    }


def parquet(tmp_path: Path, table: dict[str, object], **more: Any) -> Import:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table(table), path)
    return read_import(path, task=more.pop("task", Task.TEXT_EMBEDDING), now=NOON, **more)


def test_our_own_parquet_can_be_imported(tmp_path: Path) -> None:
    requests = (request("a"), request("b", latency_ms=2.0, label="7"))
    (tmp_path / "own.parquet").write_bytes(to_parquet(requests))
    found = read_import(tmp_path / "own.parquet", task=Task.TEXT_EMBEDDING, now=NOON)
    assert found == Import(requests, ())


def test_parquet_of_other_writers_is_read_column_by_column(tmp_path: Path) -> None:
    table = columns(
        time=pa.array([NOON, NOON], pa.timestamp("ns", tz="Europe/Berlin")),
        text=pa.array(["hello", "hi"], pa.large_string()),
        latency_ms=pa.array([3, None], pa.int32()),
        label=pa.nulls(2),
        surplus=[1, 2],
    )
    found = parquet(tmp_path, table)
    assert [(one.time, one.payload, one.latency_ms, one.label) for one in found.accepted] == [
        (NOON, "hello", 3.0, None),
        (NOON, "hi", None, None),
    ]


def test_bad_parquet_rows_are_set_aside_by_number(tmp_path: Path) -> None:
    text = pa.array([b"caf\xe9", b""], pa.binary()).view(pa.string())
    found = parquet(tmp_path, columns(text=text, request_id=["a", "b"]))
    assert [(one.line_or_row, one.reason) for one in found.rejected] == [
        (1, "text is not valid UTF-8"),
        (2, "text is empty"),
    ]
    missing = parquet(tmp_path, columns(request_id=["a", None]))
    assert missing.rejected[0].reason == "request_id is missing"


def test_tensors_in_parquet_are_checked_like_the_others(tmp_path: Path) -> None:
    good, nan = np.zeros(4, "<f4"), np.full(4, np.nan, "<f4")
    table = columns(tensor=[good.tobytes(), nan.tobytes()], shape=[[2, 2], [2, 2]])
    found = parquet(tmp_path, table, task=Task.IMAGE_CLASSIFICATION, shape=(2, 2))
    assert len(found.accepted) == 1
    assert found.rejected[0].reason == "tensor holds NaN or infinite values"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": [1, 2]}, "column text of type int64: it must be text"),
        (
            {"time": pa.array([NOON, NOON], pa.timestamp("us"))},
            "column time of type timestamp.us.: it must be time with",
        ),
        ({"request_id": [True, False]}, "column request_id of type bool"),
        ({"shape": ["2x2", "2x2"]}, "column shape of type string: it must be list of integers"),
    ],
)
def test_a_wrong_column_type_refuses_the_file(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        parquet(tmp_path, columns(**changes))


def test_a_missing_column_or_a_truncated_file_refuses_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no column request_id"):
        parquet(tmp_path, {"text": ["a"]})
    path = tmp_path / "cut.parquet"
    path.write_bytes(to_parquet([request()])[:-30])
    with pytest.raises(BadInput, match=r"cut\.parquet is not a whole Parquet file"):
        read_import(path, task=Task.TEXT_EMBEDDING)


# --- the store


def test_requests_are_stored_by_the_hour_in_which_they_came(store: LocalStore) -> None:
    late = datetime(2026, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    keys = write_traffic(
        store,
        "minilm",
        [request("a"), request("b", NOON + timedelta(minutes=59)), request("c", late)],
    )
    assert [key.rsplit("/", 1)[0] for key in keys] == [
        "traffic/minilm/date=2026-02-28/hour=23",
        "traffic/minilm/date=2026-03-01/hour=12",
    ]
    assert len(from_parquet(store.get(keys[1]), where="x")) == 2


def test_writing_the_same_requests_again_in_any_order_changes_nothing(store: LocalStore) -> None:
    requests = [request(name) for name in "abc"]
    first = write_traffic(store, "minilm", requests)
    assert write_traffic(store, "minilm", reversed(requests)) == first
    assert list(store.list("traffic/")) == first


def test_an_hour_is_split_into_parts_of_bounded_size(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.traffic.storage.parts.PART_BYTES", 10)
    keys = write_traffic(store, "minilm", [request(name, payload="12345678") for name in "abc"])
    assert len(keys) == 3


def test_personal_data_never_reaches_the_store(store: LocalStore) -> None:
    one = request(
        "a@b.com",
        payload="I am bob@example.com",
        tenant="eve@example.com",
        label="call 415-555-2671",
    )
    (key,) = write_traffic(store, "minilm", [one])
    (kept,) = from_parquet(store.get(key), where="x")
    assert (kept.payload, kept.label) == ("I am <EMAIL>", "call <PHONE>")
    assert "@" not in kept.request_id + kept.tenant
    assert kept.request_id != kept.tenant  # pseudonyms tell different people apart


def test_rejects_are_kept_redacted_short_and_once(store: LocalStore) -> None:
    rejects = [Reject(3, "text is empty", "bob@example.com " + "ü" * 5000)]
    key = write_rejects(store, "minilm", rejects, "day.jsonl")
    assert write_rejects(store, "minilm", rejects, "day.jsonl") == key
    assert key.startswith("rejected/minilm/")
    (line,) = store.get(key).decode().splitlines()
    kept = json.loads(line)
    assert (kept["source"], kept["line_or_row"], kept["reason"]) == (
        "day.jsonl",
        3,
        "text is empty",
    )
    assert kept["raw"].startswith("<EMAIL> ")
    assert len(kept["raw"].encode()) <= 2000


class Counting(LocalStore):
    """A local store that notes what was read and listed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read: list[str] = []
        self.listed: list[str] = []

    def list(self, prefix: str) -> Iterator[str]:
        self.listed.append(prefix)
        return super().list(prefix)

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return super().get(key)


@pytest.fixture
def days(tmp_path: Path) -> Iterator[Counting]:
    """Make one request an hour for four days, the newest at noon."""
    store = Counting(str(tmp_path / "days"))
    write_traffic(
        store, "minilm", [request(f"h{ago}", NOON - timedelta(hours=ago)) for ago in range(96)]
    )
    return store


def test_a_window_ends_with_the_newest_request(days: Counting) -> None:
    window = read_window(days, "minilm", hours=24)
    assert (window.start, window.end) == (NOON - timedelta(hours=24), NOON)
    assert {one.request_id for one in window.requests} == {f"h{ago}" for ago in range(24)}


def test_a_window_may_end_earlier(days: Counting) -> None:
    window = read_window(days, "minilm", hours=2, until=NOON - timedelta(hours=50, minutes=30))
    assert [one.request_id for one in window.requests] == ["h52", "h51"]


def test_only_the_parts_of_its_hours_are_read_and_only_when_iterated(days: Counting) -> None:
    window = read_window(days, "minilm", hours=2, until=NOON)
    assert days.read == []
    assert len(list(window.requests)) == 2
    assert len(days.read) == 3  # the first hour is cut
    assert len(list(window.requests)) == 2  # it can be iterated again


def test_a_window_whose_end_is_given_lists_its_days_alone(days: Counting) -> None:
    read_window(days, "minilm", hours=24, until=NOON - timedelta(days=1))
    date = (NOON - timedelta(days=1)).date()
    assert days.listed == [
        f"traffic/minilm/date={day}/" for day in (date - timedelta(days=1), date)
    ]


@pytest.mark.parametrize("hours", [1, 13, 24, 2000])
@pytest.mark.parametrize("ago", [-200, -0.5, 0, 11.5, 12, 12.5, 60, 95, 300])
def test_it_holds_what_a_look_at_every_part_finds(days: Counting, hours: int, ago: float) -> None:
    end = NOON - timedelta(hours=ago)
    window = read_window(
        days, "minilm", hours=hours, until=end.astimezone(timezone(timedelta(hours=9)))
    )
    assert (window.start, window.end) == (end - timedelta(hours=hours), end)
    found = [one.request_id for one in window.requests]
    assert found == [f"h{one}" for one in reversed(range(96)) if ago <= one < ago + hours]


def test_one_model_does_not_see_the_traffic_of_another(days: Counting) -> None:
    write_traffic(days, "minilm-2", [request("other", NOON + timedelta(hours=1))])
    assert read_window(days, "minilm", hours=1).end == NOON


def test_without_traffic_the_window_is_empty_and_nowhere(store: LocalStore) -> None:
    window = read_window(store, "minilm", hours=24)
    assert (tuple(window.requests), window.start, window.end) == ((), None, None)
    assert read_window(store, "minilm", hours=24, until=NOON) == window


def test_a_part_that_was_changed_in_the_store_is_not_read(store: LocalStore) -> None:
    (key,) = write_traffic(store, "minilm", [request()])
    store.put(key, to_parquet([request("forged")]))
    with pytest.raises(Tampered, match="does not match the digest in its name"):
        read_window(store, "minilm", hours=1)
