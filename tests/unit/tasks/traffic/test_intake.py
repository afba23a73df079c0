"""A stream of records into the store: once, whole, and in bounded memory."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput
from infra.stores.local import LocalStore
from tasks.records import Request
from tasks.traffic.imports import Accepted, Taken
from tasks.traffic.intake import Ingested, ingest
from tasks.traffic.rejects import Reject
from tasks.traffic.storage.windows import read_window

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def request(name: str, text: str = "a text", time: datetime = NOON) -> Request:
    return Request(name, time, "acme", "docs", "en", text)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


def take(store: LocalStore, *requests: Request) -> Ingested:
    return ingest(
        store,
        "minilm",
        [Accepted(number, one) for number, one in enumerate(requests, 1)],
        source="x",
    )


def stored(store: LocalStore) -> list[Request]:
    return list(read_window(store, "minilm", hours=1000).requests)


def test_the_same_stream_again_stores_nothing(store: LocalStore) -> None:
    first = take(store, request("a"), request("b", "mail bob@example.com"))
    again = take(store, request("a"), request("b", "mail bob@example.com"))
    assert (first.accepted, first.duplicates, len(first.parts)) == (2, 0, 1)
    assert (again.accepted, again.duplicates, again.parts) == (0, 2, ())


def test_a_late_request_joins_its_hour_and_the_known_ones_stay_single(store: LocalStore) -> None:
    take(store, request("a"), request("b", time=NOON + timedelta(hours=5)))
    late = take(store, request("a"), request("late", time=NOON + timedelta(minutes=3)))
    assert (late.accepted, late.duplicates) == (1, 1)
    assert sorted(one.request_id for one in stored(store)) == ["a", "b", "late"]


def test_another_input_under_the_same_id_is_set_aside_with_what_it_held(store: LocalStore) -> None:
    found = take(store, request("a"), request("a", "other words"))
    assert found.reasons == {"request_id was seen before with another input": 1}
    (line,) = store.get(found.rejects[0]).decode().splitlines()
    assert "other words" in json.loads(line)["raw"]


def test_a_label_that_came_later_is_stored_beside(store: LocalStore) -> None:
    take(store, request("a"))
    assert take(store, replace(request("a"), label="7")).accepted == 1
    assert {one.label for one in stored(store)} == {None, "7"}


def test_parts_are_written_as_the_stream_goes_and_survive_its_end(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.traffic.intake.BUFFER_ROWS", 2)

    def broken() -> Iterator[Taken]:
        for number in range(5):
            yield Accepted(number, request(f"r{number}"))
            if number == 3:
                assert len(stored(store)) == 4
        yield Reject(6, "bad", "{}")
        raise BadInput("it broke off")

    with pytest.raises(BadInput, match="broke off"):
        ingest(store, "minilm", broken(), source="x")
    assert len(stored(store)) == 5
    assert len(list(store.list("rejected/minilm/"))) == 1


_GROWTH = """
import json, resource, sys
from pathlib import Path
import tasks.traffic.formats.spill, tasks.traffic.intake
from infra.stores.local import LocalStore
from tasks.specs.spec import Task
from tasks.traffic.formats import TrafficFormat
from tasks.traffic.imports import stream
from tasks.traffic.intake import ingest

tasks.traffic.intake.BUFFER_BYTES = 1_000_000
tasks.traffic.formats.spill.CACHE_KILOBYTES = 1_000
folder, rows = Path(sys.argv[1]), int(sys.argv[2])
pixels = [round(place / 7, 4) for place in range(500)]
bodies = {"request": {"instances": [pixels]}, "response": {"predictions": [1]}}
with (folder / "log.jsonl").open("w") as file:
    for kind, body in bodies.items():
        for number in range(rows):
            time = f"2026-03-01T{number * 24 // rows:02d}:00:00Z"
            kind_of_event = f"org.kubeflow.serving.inference.{kind}"
            event = {"id": str(number), "type": kind_of_event, "time": time, "data": body}
            file.write(json.dumps(event) + "\\n")
task, format = Task.IMAGE_CLASSIFICATION, TrafficFormat.KSERVE
records = stream(folder / "log.jsonl", task=task, shape=(500,), format=format)
ingested = ingest(LocalStore(str(folder / "store")), "m", records, source="x")
assert ingested.accepted == rows, ingested
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_a_file_whose_responses_lie_a_file_behind(tmp_path: Path) -> None:
    """With small buffers: 4 and 40 MB of requests that all wait for their response."""
    peaks = []
    for rows in (1_000, 10_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        command = [sys.executable, "-c", _GROWTH, str(folder), str(rows)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 15, peaks  # megabytes


_LARGE = """
import sys
from pathlib import Path
from infra.stores.local import LocalStore
from tasks.specs.spec import Task
from tasks.traffic.imports import stream
from tasks.traffic.intake import ingest

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))

folder, before = Path(sys.argv[1]), resident("VmRSS")
records = stream(folder / "log.parquet", task=Task.IMAGE_CLASSIFICATION, shape=(256, 256))
found = ingest(LocalStore(str(folder / "store")), "m", records, source="x")
print(found.accepted, resident("VmHWM") - before)
"""


def test_a_row_group_of_a_gigabyte_is_imported_in_a_fraction_of_it(tmp_path: Path) -> None:
    """4,000 images of 262 kB in one row group, of which a thousand fill a quarter of a gigabyte."""
    rows, chunk = 4_000, 100
    pixels = [np.full(256 * 256, number, "<f4").tobytes() for number in range(chunk)]
    times = pa.array([NOON] * rows, pa.timestamp("us", "UTC"))
    columns = {
        "request_id": pa.array([str(number) for number in range(rows)]),
        "time": times,
        "tensor": pa.chunked_array(
            [pa.array(pixels)] * (rows // chunk)
        ),  # one chunk in memory, written 40 times
        "shape": pa.array([[256, 256]] * rows),
    }
    pq.write_table(
        pa.table(columns),
        tmp_path / "log.parquet",
        row_group_size=rows,
        use_dictionary=False,
        compression="zstd",
    )
    told = pq.read_metadata(tmp_path / "log.parquet")
    assert told.num_row_groups == 1
    assert told.row_group(0).total_byte_size > 1_000_000_000
    command = [sys.executable, "-c", _LARGE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    accepted, megabytes = map(int, done.stdout.split())
    assert accepted == rows
    assert megabytes < 600, megabytes  # read a thousand rows at a time, it was 1,250
