"""What traffic costs on one core, and from that what 10^9 requests a day need.

docs/scale.md explains the rows.
"""

import gc
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from math import ceil
from pathlib import Path
from statistics import median
from typing import TypeVar

from benchmarks.harness import subject
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column
from infra.cluster import MANY, open_mapper
from infra.engines import open_target
from infra.settings import LOCAL, settings, use_workspace
from infra.stores import ObjectStore, open_store
from tasks.graphs.sites import expose
from tasks.models.inputs import run_all
from tasks.observation.observer import Observer
from tasks.observation.watch import filled_observer
from tasks.profiles.archive import parse
from tasks.profiles.profile import merge
from tasks.profiles.window import profile_part
from tasks.records import Request
from tasks.sampling.shards import PARTS, parts_of_shard
from tasks.sampling.strata import gather
from tasks.traffic.storage.parts import PART_ROWS, write_traffic
from tasks.traffic.storage.windows import StoredRequests, TrafficWindow, read_window

T = TypeVar("T")

DAY = 10**9
"""Requests of a day."""
SECONDS = 86_400
COUNT, QUICK_COUNT = 80_000, 4_000
"""Requests that are written and read."""
HOURS = 8
"""Hours over which they are spread."""
START = datetime(2026, 1, 5, tzinfo=UTC)
WINDOW = 24
"""Hours of a window: one window a day, so that each request is read once."""
SMALL = PARTS * PART_ROWS
"""Requests of a shard of a small window."""
PARTS_A_DAY = DAY // PART_ROWS
SHARDS = ceil(PARTS_A_DAY / parts_of_shard(PARTS_A_DAY))
"""Shards of a day's window."""
ROUNDS = 5

IMPORT, SCAN, DRAW, PROFILE = (
    "redact and store",
    "read back",
    "read back and draw",
    "read back and profile",
)
MERGE, MERGE_PROFILE, HAND_OVER, START_UP = (
    "merge one shard of the sample, at the caller",
    "merge one part's profile, at the caller",
    "hand one of either over, at the caller",
    "start local workers",
)
OBSERVE, FORWARD = "observe one calibration request", "one golden case on the engine"


@dataclass(frozen=True, slots=True)
class WorkRow:
    """Figures of one kind of work."""

    name: str = column("what")
    million: float = column("core-s a million", ",.2f")
    daily: float = column("times a day", ",.0f")  # at DAY requests
    hours: float = column("core-hours a day", ",.3f")
    cores: float = column("cores, busy all day", ",.2f")
    kilobytes: float | None = column("kB each", ",.3f")


def row(name: str, each: float, daily: float, size: float | None = None) -> WorkRow:
    """Make a row from core-seconds and bytes of one unit, and how many of them a day has."""
    total = each * daily
    return WorkRow(
        name, each * 1e6, daily, total / 3600, total / SECONDS, None if size is None else size / 1e3
    )


def measure(quick: bool) -> ResultTable:
    """Measure MiniLM's traffic, repeated with a number in each text so that no two are equal."""
    return compare(subject.minilm(quick), QUICK_COUNT if quick else COUNT)


def compare(chosen: Subject, count: int) -> ResultTable:
    """Measure every kind of work on one core, by the processor time of this process.

    The last two rows are by the clock.
    """
    with tempfile.TemporaryDirectory() as folder, _workspace(Path(folder)) as store:
        with _one_core():
            rows = [*_traffic(chosen, store, count), *_models(chosen)]
        rows += _spreading()
    named = {work.name: work for work in rows}
    title = (
        f"What traffic costs on one core: {count:,} requests of {chosen.name}; a day has {DAY:,}"
    )
    return ResultTable("scale", title, rows, goals(named), notes(named, chosen.spec.window.sample))


def goals(rows: Mapping[str, WorkRow]) -> tuple[Goal, ...]:
    """Return the goals of what spreading costs.

    What is left to one process must not become the limit, and none must be started in vain.
    """
    caller = rows[MERGE].hours + rows[MERGE_PROFILE].hours + rows[HAND_OVER].hours
    shard = rows[DRAW].million / 1e6 * SMALL
    pays = rows[START_UP].million / 1e6 / (shard / 2)  # a second core saves half of each shard
    return (
        Goal(
            "hours a day that the caller of a cluster hands over and merges:",
            1.0,
            caller,
            "at most",
        ),
        Goal(
            f"shards from which two local processes pay (by default from {MANY}):",
            MANY,
            pays,
            "at most",
        ),
    )


def notes(rows: Mapping[str, WorkRow], sample: int) -> tuple[str, ...]:
    """Return the arithmetic for a day, in sentences."""
    stored = (rows[IMPORT].kilobytes or 0.0) * DAY / 1e9
    passes = rows[DRAW].hours + rows[PROFILE].hours
    day, draw = f"{DAY:,} requests a day", rows[DRAW]
    shard = draw.million / 1e6 * DAY / SHARDS
    return (
        f"{day} are {DAY / SECONDS:,.0f} a second: importing them keeps {rows[IMPORT].cores:,.2f} "
        "cores busy, and "
        f"stored they take {stored:,.2f} TB a day",
        f"drawing a day's sample and profiling the day takes {passes:,.1f} core-hours: as many "
        "cores for one hour",
        f"a shard of such a day is {parts_of_shard(PARTS_A_DAY)} parts of at most {PART_ROWS:,} "
        "requests, "
        f"{shard:,.0f} s of work; of a window {sample} requests are kept and observed, however "
        "large the traffic",
    )


def _traffic(chosen: Subject, store: ObjectStore, count: int) -> list[WorkRow]:
    requests = numbered(chosen.traffic, count)
    written, keys = _seconds(lambda: write_traffic(store, chosen.name, requests))
    size = sum(len(store.get(key)) for key in keys) / count
    window: TrafficWindow = read_window(
        store, chosen.name, hours=WINDOW, until=START + timedelta(hours=HOURS)
    )
    stored = window.requests
    assert isinstance(stored, StoredRequests)
    scanned, count_read = _seconds(lambda: sum(1 for _ in stored))
    assert count_read == count, (count_read, count)
    rules = chosen.spec.window
    drawn, pool = _seconds(
        lambda: gather(stored, size=rules.sample, tenant_share=rules.tenant_share)
    )
    sent = pickle.dumps(pool)
    first_half = gather(requests[: count // 2], size=rules.sample, tenant_share=rules.tenant_share)
    gc.collect()  # what was read and drawn is not the merge's to sweep
    merged = median(
        _seconds(lambda: first_half.merge(pickle.loads(sent)))[0] for _ in range(ROUNDS)
    )
    profiled, profiles = _seconds(lambda: [profile_part(store, key).data for key in keys])
    merged_profiles, _ = _seconds(
        lambda: reduce(merge, (parse(data, where="a profile") for data in profiles))
    )
    return [
        row(IMPORT, written / count, DAY, size),
        row(SCAN, scanned / count, DAY),
        row(DRAW, drawn / count, DAY),
        row(MERGE, merged, SHARDS, len(sent)),
        row(PROFILE, profiled / count, DAY, sum(map(len, profiles)) / count),
        row(MERGE_PROFILE, merged_profiles / len(keys), PARTS_A_DAY),
    ]


def _models(chosen: Subject) -> list[WorkRow]:
    instrumented = open_target("onnxruntime-cpu").load(
        expose(chosen.model, chosen.sites).SerializeToString()
    )
    plain = open_target("onnxruntime-cpu").load(chosen.source)
    cases = chosen.calibration
    observed, observer = _seconds(
        lambda: filled_observer(instrumented, chosen.sites, chosen.inputs, cases)
    )
    forward, _ = _seconds(lambda: run_all(plain, chosen.inputs, cases))
    assert isinstance(observer, Observer)
    golden = sum(len(group) for group in chosen.held_out.values())
    return [
        row(OBSERVE, observed / len(cases), chosen.spec.window.sample),
        row(FORWARD, forward / len(cases), golden),
    ]


def _spreading() -> list[WorkRow]:
    started = time.perf_counter()
    with open_mapper(LOCAL, pieces=MANY) as mapper:
        list(mapper.map(_nothing, range(mapper.workers)))
        ready = time.perf_counter()
        list(mapper.map(_nothing, range(200)))
        handed = (time.perf_counter() - ready) / 200
    return [row(HAND_OVER, handed, SHARDS + PARTS_A_DAY), row(START_UP, ready - started, 1)]


def _nothing(_: int) -> None:
    """Do nothing: a piece that is no work."""


def numbered(traffic: Sequence[Request], count: int) -> list[Request]:
    """Repeat the traffic, each request of its own time, id and text."""
    step = timedelta(hours=HOURS) / count
    requests = []
    for number in range(count):
        request = traffic[number % len(traffic)]
        payload = (
            f"{request.payload} {number}" if isinstance(request.payload, str) else request.payload
        )
        requests.append(
            replace(
                request,
                request_id=f"r{number}",
                time=START + step * (number + 1),
                payload=payload,
                tenant=f"t{number % 50}",
            )
        )
    return requests


def _seconds(call: Callable[[], T]) -> tuple[float, T]:
    """Return the processor time of all threads of this process, and the call's result."""
    before = time.process_time()
    result = call()
    return time.process_time() - before, result


@contextmanager
def _workspace(folder: Path) -> Iterator[ObjectStore]:
    """Open a store of its own; the environment is as before at the end."""
    before = dict(os.environ)
    try:
        (folder / "store").mkdir()
        use_workspace(folder)
        yield open_store(settings().store_address)
    finally:
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()


@contextmanager
def _one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
