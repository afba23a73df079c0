"""Each version of a file is read once, whenever it comes.

What cannot be read stops nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.stores.local import LocalStore
from tasks.profiles import profile_window
from tasks.records import Request
from tasks.specs.spec import Task
from tasks.traffic.formats import TrafficFormat
from tasks.traffic.sources import Folder, Reading, SourceIntake, last_intake, take_files, write_last
from tasks.traffic.sources.files import PATIENCE
from tasks.traffic.storage.windows import read_window

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
READ_BEFORE = "read before"
WAIT = "wait for the other half of a request"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def pull(
    store: LocalStore,
    folder: Path,
    format: TrafficFormat | None = None,
    *,
    now: datetime = NOW,
    settle: float = 0,
    first_at: datetime | None = None,
    timezone: str | None = None,
) -> SourceIntake:
    task = Task.TEXT_EMBEDDING
    reading = Reading("m", "inbox", task, None, format, first_at, settle, timezone)
    return take_files(store, Folder(folder), reading, now)


def line(name: str, text: str = "a text", time: datetime = NOW, **more: str) -> str:
    return json.dumps({"request_id": name, "time": time.isoformat(), "text": text, **more}) + "\n"


def event(name: str, side: str, text: str = "a text", time: datetime = NOW) -> str:
    body = {"instances": [text]} if side == "request" else {"predictions": [1]}
    kind = f"org.kubeflow.serving.inference.{side}"
    return json.dumps({"id": name, "type": kind, "time": time.isoformat(), "data": body}) + "\n"


def stored(store: LocalStore) -> list[Request]:
    return list(read_window(store, "m", hours=1000, now=NOW).requests)


def ids(store: LocalStore) -> list[str]:
    return sorted(one.request_id for one in stored(store))


def counts(done: SourceIntake) -> tuple[int, int, int, int]:
    return done.files, done.accepted, done.duplicates, done.rejected


def test_partitions_and_the_zone_of_a_source_are_read(store: LocalStore, inbox: Path) -> None:
    folder = inbox / "dt=2026-03-01" / "language=ja"
    folder.mkdir(parents=True)
    naive = NOW.replace(tzinfo=None)
    (folder / "part-0.jsonl").write_text(line("a", time=naive))
    (inbox / "_SUCCESS").touch()
    refused = pull(store, inbox)
    assert (refused.accepted, refused.rejected) == (0, 1)
    later = NOW + timedelta(hours=2)
    taken = pull(store, inbox, timezone="Europe/Berlin", now=later)
    assert (taken.accepted, taken.rejected) == (1, 0)
    (request,) = stored(store)
    assert (request.language, request.time) == ("ja", NOW - timedelta(hours=1))


def test_a_file_is_read_once(store: LocalStore, inbox: Path) -> None:
    (inbox / "a.jsonl").write_text(line("a") + line("b"))
    assert counts(pull(store, inbox)) == (1, 2, 0, 0)
    again = pull(store, inbox)
    assert counts(again) == (0, 0, 0, 0)
    assert again.left == {READ_BEFORE: 1}


def test_a_file_that_grew_is_read_again_and_what_was_known_is_stored_and_set_aside_once(
    store: LocalStore, inbox: Path
) -> None:
    path = inbox / "a.jsonl"
    path.write_text(line("a") + "{broken\n")
    assert counts(pull(store, inbox)) == (1, 1, 0, 1)
    with path.open("a") as file:
        file.write(line("b") + "{worse\n")
    grown = pull(store, inbox)
    assert counts(grown) == (1, 1, 2, 1)
    assert ids(store) == ["a", "b"]
    assert len(list(store.list("intake/m/inbox/taken/"))) == 1, (
        "a file has one record, of its last version"
    )
    with path.open("a") as file:
        file.write(line("c"))
    assert counts(pull(store, inbox)) == (1, 1, 4, 0)


def test_a_file_that_may_still_be_written_is_left_for_later(store: LocalStore, inbox: Path) -> None:
    (inbox / "a.jsonl").write_text(line("a"))
    written = (NOW - timedelta(seconds=30)).timestamp()
    os.utime(inbox / "a.jsonl", (written, written))
    young = pull(store, inbox, settle=60)
    assert (young.files, young.left) == (0, {"written to in the last 60 s": 1})
    assert pull(store, inbox, settle=60, now=NOW + timedelta(seconds=31)).accepted == 1


def test_hidden_files_markers_and_files_in_the_making_are_ignored(
    store: LocalStore, inbox: Path
) -> None:
    (inbox / "_temporary").mkdir()
    for name in (".a.jsonl", "_SUCCESS", "b.jsonl.tmp", "c.jsonl.part", "_temporary/d.jsonl"):
        (inbox / name).write_text(line("a"))
    (inbox / "empty.jsonl").touch()
    done = pull(store, inbox)
    assert (done.files, done.problems, sum(done.left.values())) == (0, (), 5)


def test_a_broken_file_is_told_stops_no_other_and_is_tried_again_when_it_changes(
    store: LocalStore, inbox: Path
) -> None:
    (inbox / "1.parquet").write_bytes(b"no parquet")
    (inbox / "2.jsonl").write_text(line("a"))
    first = pull(store, inbox)
    assert (first.accepted, first.left) == (1, {"could not be read": 1})
    (problem,) = first.problems
    assert problem.name == "inbox/1.parquet"
    assert problem.reason.startswith("it is not a whole Parquet file")
    again = pull(store, inbox)
    assert again.problems == ()
    assert again.left == {"could not be read before, and unchanged": 1, READ_BEFORE: 1}
    (inbox / "1.parquet").write_bytes(b"no parquet either")
    assert len(pull(store, inbox).problems) == 1


def test_a_file_of_an_unknown_kind_is_told(store: LocalStore, inbox: Path) -> None:
    (inbox / "a.csv").write_text("x")
    (problem,) = pull(store, inbox).problems
    assert "neither .jsonl nor .parquet" in problem.reason


def test_a_name_that_is_personal_data_is_told_redacted_and_kept_nowhere(
    store: LocalStore, inbox: Path
) -> None:
    (inbox / "bob@example.com.parquet").write_bytes(b"no parquet")
    (inbox / "ann@example.com.jsonl").write_text("{broken\n")
    done = pull(store, inbox)
    write_last(store, "m", done)
    assert done.problems[0].name == "inbox/<EMAIL>"
    assert not [key for key in store.list("") if b"example.com" in store.get(key)]


def test_a_folder_that_is_not_there_is_told_each_time(store: LocalStore, inbox: Path) -> None:
    done = pull(store, inbox / "gone")
    assert done.error is not None
    assert "gone is not there: make it, or correct the path in the spec" in done.error


def test_other_rules_read_a_file_anew(store: LocalStore, inbox: Path) -> None:
    (inbox / "a.jsonl").write_text(event("1", "request") + event("1", "response"))
    assert counts(pull(store, inbox)) == (1, 0, 0, 2)
    assert counts(pull(store, inbox, TrafficFormat.KSERVE)) == (1, 1, 0, 0)


# --- requests and responses in different files


def test_a_request_waits_for_its_response_in_a_later_file(store: LocalStore, inbox: Path) -> None:
    (inbox / "1.jsonl").write_text(
        event("a", "request") + event("a", "response") + event("b", "request")
    )
    first = pull(store, inbox, TrafficFormat.KSERVE)
    assert (counts(first), first.left) == ((1, 1, 0, 0), {WAIT: 1})
    idle = pull(store, inbox, TrafficFormat.KSERVE)
    assert (counts(idle), idle.left) == ((0, 0, 0, 0), {WAIT: 1})
    (inbox / "2.jsonl").write_text(event("b", "response"))
    last = pull(store, inbox, TrafficFormat.KSERVE)
    assert (last.accepted, last.rejected, last.left) == (1, 0, {})
    assert ids(store) == ["a", "b"]
    assert pull(store, inbox, TrafficFormat.KSERVE).left == {READ_BEFORE: 2}


def test_one_event_a_file_is_joined_however_they_come(store: LocalStore, inbox: Path) -> None:
    (inbox / "b-response.json").write_text(event("b", "response"))
    (inbox / "a-request.json").write_text(event("a", "request"))
    assert pull(store, inbox, TrafficFormat.KSERVE).left == {WAIT: 2}
    (inbox / "a-response.json").write_text(event("a", "response"))
    assert pull(store, inbox, TrafficFormat.KSERVE).left == {WAIT: 1}
    (inbox / "b-request.json").write_text(event("b", "request"))
    assert pull(store, inbox, TrafficFormat.KSERVE).rejected == 0
    assert ids(store) == ["a", "b"]


def test_what_was_joined_across_files_does_not_wait_when_one_of_them_is_read_again(
    store: LocalStore, inbox: Path
) -> None:
    (inbox / "requests.jsonl").write_text(event("a", "request"))
    responses = inbox / "responses.jsonl"
    responses.write_text(event("a", "response"))
    assert counts(pull(store, inbox, TrafficFormat.KSERVE)) == (2, 1, 0, 0)
    responses.write_text(responses.read_text() + event("b", "response"))
    grown = pull(store, inbox, TrafficFormat.KSERVE)
    assert (counts(grown), grown.left) == ((1, 0, 1, 0), {READ_BEFORE: 1, WAIT: 1})
    (inbox / "more.jsonl").write_text(event("b", "request"))
    last = pull(store, inbox, TrafficFormat.KSERVE)
    assert (last.accepted, last.rejected, last.left) == (1, 0, {READ_BEFORE: 1})


def test_what_has_waited_a_day_is_set_aside_once(store: LocalStore, inbox: Path) -> None:
    (inbox / "1.jsonl").write_text(event("a", "request"))
    pull(store, inbox, TrafficFormat.KSERVE)
    late = pull(store, inbox, TrafficFormat.KSERVE, now=NOW + PATIENCE)
    assert list(late.reasons) == [
        "this request has no response with its id: import the files of both together"
    ]
    again = pull(store, inbox, TrafficFormat.KSERVE, now=NOW + 2 * PATIENCE)
    assert (again.rejected, again.left) == (0, {READ_BEFORE: 1})


def test_a_broken_file_among_paired_ones_loses_no_other(store: LocalStore, inbox: Path) -> None:
    (inbox / "1.json").write_text(event("a", "request"))
    (inbox / "2.json").write_text("[" + event("b", "request") + ", {")
    (inbox / "3.json").write_text(event("a", "response"))
    done = pull(store, inbox, TrafficFormat.KSERVE)
    assert (done.files, done.accepted) == (2, 1)
    assert [one.name for one in done.problems] == ["inbox/2.json"]


def test_a_file_that_waited_and_is_gone_is_told(store: LocalStore, inbox: Path) -> None:
    (inbox / "1.jsonl").write_text(event("a", "request"))
    (inbox / "2.jsonl").write_text(event("b", "request") + event("b", "response"))
    pull(store, inbox, TrafficFormat.KSERVE)
    (inbox / "1.jsonl").unlink()
    done = pull(store, inbox, TrafficFormat.KSERVE)
    assert done.left == {
        "gone while something of them waited for its other half": 1,
        READ_BEFORE: 1,
    }


# --- traces of a clock without dates


def trace(number: int, stamp: int) -> Sequence[dict[str, object]]:
    tensor = {"name": "text", "data": "hello", "shape": "1", "dtype": "BYTES"}
    return [
        {"id": number, "model_name": "m", "model_version": 1, "request_id": f"r{number}"},
        {"id": number, "timestamps": [{"name": "REQUEST_START", "ns": stamp}]},
        {"id": number, "activity": "TENSOR_QUEUE_INPUT", "tensor": tensor},
    ]


def test_the_clock_of_later_trace_files_counts_on_from_the_first(
    store: LocalStore, inbox: Path
) -> None:
    began = NOW - timedelta(hours=5)
    (inbox / "trace.0").write_text(json.dumps(trace(1, 7_000_000_000)))
    assert pull(store, inbox, TrafficFormat.TRITON, first_at=began).accepted == 1
    (inbox / "trace.1").write_text(json.dumps(trace(2, 3_607_000_000_000)))
    assert pull(store, inbox, TrafficFormat.TRITON, first_at=began).accepted == 1
    assert {one.request_id: one.time for one in stored(store)} == {
        "r1": began,
        "r2": began + timedelta(hours=1),
    }
    (inbox / "trace.2").write_text(json.dumps(trace(3, 6_000_000_000)))
    (problem,) = pull(store, inbox, TrafficFormat.TRITON, first_at=began).problems
    assert problem.reason.startswith("its clock stands before that of the source's first file")


# --- late, killed, twice


def test_a_late_file_joins_its_hours_in_window_and_profile(store: LocalStore, inbox: Path) -> None:
    (inbox / "now.jsonl").write_text(line("new"))
    pull(store, inbox)
    hour = NOW - timedelta(hours=6)
    (inbox / "late.jsonl").write_text(line("late", time=hour, tenant="acme"))
    assert pull(store, inbox).accepted == 1
    window = read_window(store, "m", hours=24, now=NOW)
    assert {one.request_id: one.time for one in window.requests} == {"late": hour, "new": NOW}
    assert any("/hour=06/" in key for key in store.list("traffic/m/"))
    profile = profile_window(store, "m", list(store.list("traffic/m/"))).profile
    assert profile.rows == 2
    assert [one.request_id for one in read_window(store, "m", hours=1, now=NOW).requests] == ["new"]


_PULL = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import tasks.traffic.intake
from infra.stores.local import LocalStore
from tasks.specs.spec import Task
from tasks.traffic.sources import Folder, Reading, take_files

tasks.traffic.intake.BUFFER_ROWS = 50
reading = Reading("m", "inbox", Task.TEXT_EMBEDDING, None, None, None, 0)
now = datetime(2026, 3, 1, 12, tzinfo=UTC)
done = take_files(LocalStore(sys.argv[1]), Folder(Path(sys.argv[2])), reading, now)
print(done.accepted)
"""


def start_pull(store: Path, inbox: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _PULL, str(store), str(inbox)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_in_the_middle_of_a_file_the_next_intake_stores_the_rest(
    store: LocalStore, inbox: Path, tmp_path: Path
) -> None:
    rows = 5_000
    (inbox / "a.jsonl").write_text(
        "".join(line(f"r{number}", f"text {number}") for number in range(rows))
    )
    process = start_pull(tmp_path / "store", inbox)
    while len(list(store.list("traffic/m/"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = len(stored(store))
    assert 0 < before < rows
    assert not list(store.list("intake/"))
    done = pull(store, inbox)
    assert (done.accepted, done.duplicates) == (rows - before, before)
    assert ids(store) == sorted(f"r{number}" for number in range(rows))


def test_two_intakes_at_once_store_each_request_once(
    store: LocalStore, inbox: Path, tmp_path: Path
) -> None:
    for number in range(5):
        (inbox / f"{number}.jsonl").write_text(
            "".join(line(f"{number}-{row}") for row in range(40))
        )
    both = [start_pull(tmp_path / "store", inbox) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    for one in both:
        one.communicate()
    assert len(set(ids(store))) == 200
    assert len(list(store.list("intake/m/inbox/taken/"))) == 5
    assert pull(store, inbox).left == {READ_BEFORE: 5}


def test_the_last_intake_of_each_source_can_be_read_back(store: LocalStore, inbox: Path) -> None:
    (inbox / "a.jsonl").write_text(line("a") + "{\n")
    (inbox / "b.parquet").write_bytes(b"x")
    done = pull(store, inbox)
    write_last(store, "m", done)
    assert last_intake(store, "m") == (done,)
    assert last_intake(store, "n") == ()
