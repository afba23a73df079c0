"""A scheduler and two worker processes, one of them killed in the middle.

The bytes are those of a single process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from infra.canonical import canonical, sha256
from infra.cluster import Mapper, open_mapper
from infra.errors import Tampered
from infra.settings import NONE, Settings, settings
from tasks.models.catalog import RegisteredModel, register
from tasks.observation.archive import dump_observation
from tasks.observation.observer import Observer
from tasks.observation.shards import observe_shards
from tasks.records import Request, Sample, SampleRef
from tasks.sampling import shards as sampling
from tasks.sampling.strata import Pool
from tasks.traffic.storage.codec import to_parquet
from tasks.traffic.storage.parts import write_traffic
from tasks.traffic.storage.windows import TrafficWindow, read_window
from tasks.validation import shards as golden
from tasks.validation.shards import GoldenEngine, GoldenShard, golden_outputs, run_shard
from tests.clusters import Cluster, cluster
from tests.integration.conftest import EXAMPLES, images, serve

START = datetime(2026, 1, 5, tzinfo=UTC)
HOURS, AN_HOUR = 24, 300
CASES = 160
T = TypeVar("T")
R = TypeVar("R")
CALIBRATION = "calibration/digits/some.parquet"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def model(shared_workspace: Settings) -> RegisteredModel:
    added = register(EXAMPLES / "digits" / "model.yaml")
    settings().store().put(CALIBRATION, to_parquet(added.pool[:CASES]))
    return added


@pytest.fixture(scope="module")
def window(shared_workspace: Settings) -> TrafficWindow:
    """Write a day of texts in one part an hour, so that there are shards for everybody."""
    rng = np.random.default_rng(0)
    requests = [
        Request(
            f"r{number}",
            START + timedelta(hours=number / AN_HOUR),
            f"t{rng.integers(4)}",
            ("docs", "chat")[rng.integers(2)],
            ("en", "de", "ja")[rng.integers(3)],
            f"text {rng.integers(900)}",
        )
        for number in range(HOURS * AN_HOUR)
    ]
    write_traffic(settings().store(), "texts", requests)
    found = read_window(settings().store(), "texts", hours=HOURS)
    assert len(found.requests.keys) >= HOURS  # type: ignore[union-attr]  # StoredRequests
    return found


@pytest.fixture(scope="module")
def running(shared_workspace: Settings) -> Iterator[Cluster]:
    with cluster(workers=2) as started:
        yield started


def kill_at(
    monkeypatch: pytest.MonkeyPatch, kind: type, result: int, worker: subprocess.Popen[bytes]
) -> list[int]:
    """Kill a worker when this many results have been merged.

    The number of merges is returned, as they come.
    """
    merged: list[int] = []
    merge = kind.merge  # type: ignore[attr-defined]

    def merge_and_kill(whole: object, part: object) -> None:
        merged.append(len(merged) + 1)
        if merged[-1] == result:
            os.kill(worker.pid, signal.SIGKILL)
            assert worker.wait(10) == -signal.SIGKILL
        merge(whole, part)

    monkeypatch.setattr(kind, "merge", merge_and_kill)
    return merged


def drawn(window: TrafficWindow, place: str) -> Sample:
    return sampling.draw_window(window, place, size=64, tenant_share=0.4)


def test_a_worker_killed_in_the_middle_of_sampling_changes_no_byte(
    window: TrafficWindow, running: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "PARTS", 1)
    alone = drawn(window, NONE)
    with monkeypatch.context() as patched:
        merged = kill_at(patched, Pool, 3, running.workers[0])
        together = drawn(window, running.address)
    assert len(merged) == HOURS
    assert together == alone
    assert to_parquet(together.requests) == to_parquet(alone.requests)
    assert [worker.poll() for worker in running.workers] == [-signal.SIGKILL, None]


def test_a_worker_killed_in_the_middle_of_observing_changes_no_byte(
    model: RegisteredModel, running: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.add_worker()
    alone = observe_shards(model, CALIBRATION, CASES, NONE)
    with monkeypatch.context() as patched:
        wait_for_workers(running, 2)
        merged = kill_at(patched, Observer, 1, running.workers[1])
        together = observe_shards(model, CALIBRATION, CASES, running.address)
    assert len(merged) == 4
    assert dump_observation(together) == dump_observation(alone)
    assert running.workers[1].poll() == -signal.SIGKILL


def test_golden_cases_get_the_same_outputs_on_workers(
    model: RegisteredModel, running: Cluster
) -> None:
    plan = model.file("reference.onnx")
    settings().store().put("candidates/plan", plan)
    engine = GoldenEngine("onnxruntime-cpu", "candidates/plan", sha256(plan))
    alone, together = (golden_outputs(model, engine, place) for place in (NONE, running.address))
    assert together.tobytes() == alone.tobytes() == model.golden_reference.tobytes()
    with pytest.raises(Tampered, match="is not the plan that was to be judged"):
        golden_outputs(model, replace(engine, digest="0" * 64), running.address)


NOTES = "golden-runs/"


def slow_shard(shard: GoldenShard) -> dict[int, NDArray[np.float32]]:
    """Give the shard a second after the store says who has begun it; this runs on a worker."""
    settings().store().put(f"{NOTES}{shard.index}-{os.getpid()}", b"")
    time.sleep(1)
    return run_shard(shard)


def begun() -> dict[int, set[int]]:
    """Share -> processes that began it."""
    found: dict[int, set[int]] = {}
    for key in settings().store().list(NOTES):
        index, process = key.removeprefix(NOTES).split("-")
        found.setdefault(int(index), set()).add(int(process))
    return found


def test_a_worker_killed_in_the_middle_of_golden_cases_changes_no_byte(
    model: RegisteredModel, running: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.add_worker()
    wait_for_workers(running, 2)
    plan = model.file("reference.onnx")
    settings().store().put("candidates/plan", plan)
    engine = GoldenEngine("onnxruntime-cpu", "candidates/plan", sha256(plan))
    alone = golden_outputs(model, engine, NONE)
    killed: list[int] = []
    spread = golden.open_mapper

    @contextmanager
    def open_and_kill(place: str, *, pieces: int) -> Iterator[Killing]:
        with spread(place, pieces=pieces) as mapper:
            yield Killing(mapper, running, killed)

    monkeypatch.setattr(golden, "run_shard", slow_shard)
    monkeypatch.setattr(golden, "open_mapper", open_and_kill)
    together = golden_outputs(model, engine, running.address)
    assert together.tobytes() == alone.tobytes()
    assert len(killed) == 1
    again = [who for who in begun().values() if killed[0] in who and len(who) == 2]
    assert again, "no shard of the killed worker ran a second time, elsewhere"


@dataclass
class Killing:
    """A mapper whose first result costs a worker its life.

    That one has begun another shard by then.
    """

    mapper: Mapper
    running: Cluster
    killed: list[int]

    @property
    def workers(self) -> int:
        return self.mapper.workers

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        for number, result in enumerate(self.mapper.map(function, items)):
            if number == 0:
                self._kill_who_began(shard=2)
            yield result

    def _kill_who_began(self, shard: int) -> None:
        deadline = time.monotonic() + 30
        while not (who := begun().get(shard)):
            assert time.monotonic() < deadline, f"nobody began shard {shard}"
            time.sleep(0.02)
        (victim,) = [one for one in self.running.workers if one.pid in who]
        victim.kill()
        assert victim.wait(10) == -signal.SIGKILL
        self.killed.append(victim.pid)


def test_the_cluster_is_a_setting_of_the_process_or_the_spec(
    model: RegisteredModel, running: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of the flows, with nothing but the setting between the two runs."""
    from tasks.quantization.steps import observe

    calibration = SampleRef(model.name, "some", CALIBRATION, CASES, CASES, {}, ())
    seen = []
    for place in (NONE, running.address):
        monkeypatch.setenv("REQUANT_CLUSTER", place)
        settings.cache_clear()
        key = observe.fn(calibration)
        seen.append(settings().store().get(key))
        settings().store().delete(key)
    assert seen[0] == seen[1]


def test_workers_need_no_prefect_to_sample_observe_and_judge(running: Cluster) -> None:
    with open_mapper(running.address, pieces=8) as mapper:
        assert set(mapper.map(has_prefect, range(8))) == {False}


def has_prefect(_: int) -> bool:
    return "prefect" in sys.modules


class Told:
    """A progress that remembers its sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def step(self, sentence: str, share: float) -> None:
        self.sentences.append(sentence)


def test_candidates_of_a_full_search_are_built_on_workers_to_the_same_bytes(
    model: RegisteredModel, running: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.climbing import CandidateWork, ClimbInputs, build_ahead, build_candidate
    from tasks.quantization.recipe.catalog import find_recipe
    from tasks.quantization.steps import observe

    calibration = SampleRef(model.name, "some", CALIBRATION, CASES, CASES, {}, ())
    material = ClimbInputs(calibration, observe.fn(calibration), None, ())
    ladder = [find_recipe(name) for name in ("int8-smooth", "int8-weights", "full-precision")]
    monkeypatch.setenv("REQUANT_CLUSTER", running.address)
    settings.cache_clear()
    told = Told()
    build_ahead(material, ladder, ["onnxruntime-cpu"], told)  # type: ignore[arg-type]  # a Progress needs a server
    assert told.sentences == ["building 3 candidates on the cluster"]
    together = candidates()
    assert sum(name.endswith("/graph.onnx") for name in together) == 3
    assert sum(name.endswith("/plan") for name in together) == 3
    for name in together:
        settings().store().delete(name)
    for candidate in ladder:
        build_candidate(CandidateWork(material, candidate.name, None, ("onnxruntime-cpu",)))
    assert candidates() == together


def candidates() -> dict[str, bytes]:
    store = settings().store()
    return {name: store.get(name) for name in store.list("candidates/digits/")}


def wait_for_workers(running: Cluster, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open_mapper(running.address, pieces=2) as mapper:
            if mapper.workers == count:
                return
        time.sleep(0.2)
    raise AssertionError(f"there were never {count} workers")


# --- a flow


def test_maintenance_decides_the_same_on_a_cluster_byte_for_byte(
    loop: Settings, running: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare all that a decision rests on, in two copies of one workspace.

    It has a champion and a new window.
    """
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from infra.cluster.workers import OnDask

    monkeypatch.setenv("REQUANT_CLUSTER", NONE)
    settings.cache_clear()
    register(one_target(tmp_path / "digits"))
    serve(loop, "digits", 0, images(0.5, 1.0))
    assert maintenance("digits").status is Status.PROMOTED
    serve(loop, "digits", 1, images(0.5, 1.0, seed=1))
    copy = tmp_path / "copy"
    shutil.copytree(loop.root, copy)
    before = objects()
    # The id by which a repeated commit is known is the one thing that chance decides.
    monkeypatch.setattr("tasks.promotion.journal.uuid4", lambda: UUID(int=1))
    alone = maintenance("digits")
    stored = {key: data for key, data in objects().items() if before.get(key) != data}

    running.add_worker()
    wait_for_workers(running, 2)
    spread, submit = set[str](), OnDask.map
    monkeypatch.setattr(
        OnDask,
        "map",
        lambda self, function, items: spread.add(named(function)) or submit(self, function, items),
    )
    monkeypatch.setenv("REQUANT_CLUSTER", running.address)
    monkeypatch.setenv("REQUANT_WORKSPACE", str(copy))
    settings.cache_clear()
    assert objects() == before
    together = maintenance("digits")
    also = {key: data for key, data in objects().items() if before.get(key) != data}

    assert spread == {"gather_shard", "profile_part"}
    assert alone.status is together.status is Status.KEPT
    assert together.decision == alone.decision
    assert also == stored
    assert {key.split("/")[0] for key in stored} >= {
        "draws",
        "evidence",
        "ledger",
        "profiles",
        "reports",
        "windows",
    }


def one_target(folder: Path) -> Path:
    """Write the digits model for one target; return its spec."""
    shutil.copytree(EXAMPLES / "digits", folder)
    document = yaml.safe_load((folder / "model.yaml").read_text()) | {
        "targets": ["onnxruntime-cpu"]
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return folder / "model.yaml"


def objects() -> dict[str, bytes]:
    """Return every object that a run stores.

    Of an entry of the ledger it is what it says, without when and after what.
    """
    store = settings().store()
    found = {
        key: store.get(key) for key in store.list("") if not key.endswith("/evidently.html")
    }  # has random ids
    return {
        key: canonical(json.loads(data)["body"]) if key.startswith("ledger/") else data
        for key, data in found.items()
    }


def named(function: Callable[..., object]) -> str:
    return str(getattr(getattr(function, "func", function), "__name__", function))
