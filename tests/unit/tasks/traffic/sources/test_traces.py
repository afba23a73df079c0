"""Each trace is read once.

Late ones within the overlap are read too, and those in the making when they have ended.
"""

import json
from collections.abc import Container, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.registry.traces import TracePage, TraceStamp
from infra.stores.local import LocalStore
from tasks.specs.spec import Task
from tasks.traffic.sources import Reading, SourceIntake, take_traces

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
READING = Reading("m", "chat", Task.TEXT_EMBEDDING, None, None, None, 0)


class Experiment:
    """Traces of a server; what is asked of it is counted."""

    def __init__(self) -> None:
        self.began: dict[str, datetime] = {}
        self.open: set[str] = set()
        self.asked: list[str] = []
        self.since: list[int] = []

    def add(self, name: str, began: datetime, *, is_open: bool = False) -> None:
        self.began[name] = began
        self.open |= {name} if is_open else set()

    def pages(self, since_ms: int) -> Iterator[TracePage]:
        self.since.append(since_ms)
        ordered = sorted(self.began.items(), key=lambda item: item[1])
        for name, began in ordered:
            stamp = TraceStamp(name, round(began.timestamp() * 1000), name not in self.open)
            if stamp.began_ms >= since_ms:
                yield TracePage((stamp,), self._documents)

    def _documents(self, wanted: Container[str]) -> Mapping[str, str]:
        names = [name for name in self.began if name in wanted]
        self.asked += names
        return {name: self._document(name) for name in names}

    def _document(self, name: str) -> str:
        state = "IN_PROGRESS" if name in self.open else "OK"
        info = {"trace_id": name, "request_time": self.began[name].isoformat(), "state": state}
        span = {"attributes": {"mlflow.spanInputs": json.dumps({"text": f"text of {name}"})}}
        return json.dumps({"info": info, "data": {"spans": [span]}})


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


def pull(store: LocalStore, experiment: Experiment, now: datetime = NOW) -> SourceIntake:
    return take_traces(store, "chat", experiment.pages, READING, now)


def test_a_late_trace_is_read_and_known_ones_are_not_asked_for(store: LocalStore) -> None:
    experiment = Experiment()
    experiment.add("old", NOW - timedelta(hours=8))
    experiment.add("new", NOW - timedelta(minutes=10))
    assert pull(store, experiment).accepted == 2
    experiment.asked.clear()
    experiment.add("late", NOW - timedelta(minutes=40))
    done = pull(store, experiment)
    assert (done.files, done.accepted, experiment.asked) == (1, 1, ["late"])
    assert NOW - timedelta(minutes=70) == datetime.fromtimestamp(experiment.since[-1] / 1000, UTC)


def test_a_trace_in_the_making_is_left_until_it_has_ended(store: LocalStore) -> None:
    experiment = Experiment()
    experiment.add("slow", NOW - timedelta(hours=5), is_open=True)
    experiment.add("fast", NOW)
    first = pull(store, experiment)
    assert (first.accepted, first.rejected, first.left) == (1, 0, {"in the making": 1})
    experiment.open.clear()
    last = pull(store, experiment)
    assert (last.accepted, last.left) == (1, {})
    assert pull(store, experiment).files == 0


def test_a_trace_that_never_ends_is_set_aside_after_a_day(store: LocalStore) -> None:
    experiment = Experiment()
    experiment.add("stuck", NOW, is_open=True)
    pull(store, experiment)
    late = pull(store, experiment, NOW + timedelta(days=1))
    assert list(late.reasons) == ["the trace ended in the state IN_PROGRESS: nothing was served"]
    assert pull(store, experiment, NOW + timedelta(days=2)).rejected == 0


def test_a_trace_of_a_clock_that_is_ahead_hides_no_other(store: LocalStore) -> None:
    experiment = Experiment()
    experiment.add("ahead", NOW + timedelta(days=3))
    assert pull(store, experiment).rejected == 1
    experiment.add("now", NOW)
    done = pull(store, experiment)
    assert (done.accepted, done.rejected) == (1, 0)
