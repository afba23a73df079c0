"""Traffic leaves a champion whose limits are broken, stays away, and comes back by policy."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flows.gateway.steering.guardian import ChampionObserver, Guardian
from infra.errors import Unavailable
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.steering.destination import Asking
from infra.gateway.steering.shadow import ShadowRuns
from infra.gateway.wire.signature import GraphSignature, TensorSignature
from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind
from tasks.specs.serving import FallbackSpec
from tests.unit.infra.gateway.test_application import Plain

SPEC = FallbackSpec(errors=0.05, back_after_s=0.05)
NOTHING: Any = None


def release(version: str) -> ServedRelease:
    signature = GraphSignature((), (), False)
    return ServedRelease("m", version, version * 64, "t", NOTHING, signature, NOTHING)


CHAMPION, OTHER = release("1"), release("2")


def guarded() -> tuple[Endpoint, Guardian, ChampionObserver]:
    metrics = GatewayMetrics()
    endpoint = Endpoint("m", DynamicBatcher("m", metrics), metrics, release=CHAMPION)
    guardian, observer = Guardian(endpoint), ChampionObserver(SPEC, CHAMPION, None)
    guardian.guard(observer, OTHER)
    return endpoint, guardian, observer


def broken(observer: ChampionObserver) -> None:
    for _ in range(60):
        observer.failed(CHAMPION)


def test_an_incident_is_written_once_and_stands_after_a_restart(workspace: Settings) -> None:
    endpoint, guardian, observer = guarded()
    broken(observer)
    guardian.look()
    guardian.look()
    assert endpoint.steering.fallen
    assert [entry.kind for entry in journal.read("m")] == [EntryKind.FELL_BACK]
    another, fresh, _ = guarded()
    fresh.resume(journal.read("m"))
    assert another.steering.fallen


def test_what_one_process_wrote_moves_another_that_serves_the_same_champion(
    workspace: Settings,
) -> None:
    _, guardian, observer = guarded()
    another, follower, _ = guarded()
    before = journal.read("m")
    broken(observer)
    guardian.look()
    follower.follow(journal.read("m"))
    assert another.steering.fallen
    time.sleep(0.06)
    for _ in range(60):
        observer.answered(CHAMPION, 0.01)
    guardian.look()
    guardian.follow(before)  # read before it wrote: it moves back for nothing that is over
    follower.follow(journal.read("m"))
    assert not another.steering.fallen
    assert len(journal.read("m")) == 2


def test_a_process_does_not_follow_what_it_wrote_itself_as_it_was_before(
    workspace: Settings,
) -> None:
    endpoint, guardian, observer = guarded()
    broken(observer)
    guardian.look()
    guardian.follow(journal.read("m"))
    fallen = journal.read("m")
    time.sleep(0.06)
    for _ in range(60):
        observer.answered(CHAMPION, 0.01)
    guardian.look()
    guardian.follow(fallen)
    assert not endpoint.steering.fallen


def test_the_champion_comes_back_when_its_probes_kept_the_limits(workspace: Settings) -> None:
    endpoint, guardian, observer = guarded()
    broken(observer)
    guardian.look()
    time.sleep(0.06)
    for _ in range(10):  # too few
        observer.answered(CHAMPION, 0.01)
    guardian.look()
    assert endpoint.steering.fallen
    for _ in range(60):
        observer.answered(CHAMPION, 0.01)
    guardian.look()
    assert not endpoint.steering.fallen
    assert [entry.kind for entry in journal.read("m")][-1] is EntryKind.RETURNED


def test_traffic_leaves_a_champion_whose_process_holds_too_much_memory_and_comes_back(
    workspace: Settings,
) -> None:
    held = [500.0]
    metrics = GatewayMetrics()
    endpoint = Endpoint("m", DynamicBatcher("m", metrics), metrics, release=CHAMPION)
    guardian = Guardian(endpoint, memory_mb=lambda: held[0])
    spec = FallbackSpec(memory_mb=400, back_after_s=0.05)
    guardian.guard(ChampionObserver(spec, CHAMPION, None), OTHER)
    looks = 0
    while not endpoint.steering.fallen and looks < 100:
        guardian.look()
        looks += 1
    assert 1 < looks < 25, "one look over the limit is no evidence, and five seconds of them are"
    assert "memory" in str(journal.read("m")[-1].details)
    held[0] = 300.0
    time.sleep(0.06)
    for _ in range(60):
        guardian.look()
    assert not endpoint.steering.fallen


def test_answers_of_another_release_say_nothing_of_the_champion(workspace: Settings) -> None:
    endpoint, guardian, observer = guarded()
    for _ in range(60):
        observer.failed(OTHER)
    guardian.look()
    assert not endpoint.steering.fallen


def test_traffic_moves_though_the_ledger_cannot_be_written(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any, **__: Any) -> None:
        raise Unavailable("the store is down")

    endpoint, guardian, observer = guarded()
    broken(observer)
    with monkeypatch.context() as patched:
        patched.setattr(journal, "commit", down)
        guardian.look()
    assert endpoint.steering.fallen
    assert not journal.read("m")
    monkeypatch.setattr("flows.gateway.steering.guardian.time.monotonic", lambda: 1e12)
    guardian.look()
    assert [entry.kind for entry in journal.read("m")] == [EntryKind.FELL_BACK]


class Echo:
    """An engine that answers what it is asked."""

    def run(self, feeds: Any) -> Any:
        return feeds


class Broken:
    """An engine that answers nothing."""

    def run(self, feeds: Any) -> Any:
        raise RuntimeError("it broke")


def test_the_champion_comes_back_where_what_stands_by_fails_at_everything(
    workspace: Settings,
) -> None:
    endpoint, guardian, observer = guarded()
    endpoint.shadows = ShadowRuns("m", endpoint.batcher, endpoint.metrics)
    signature = GraphSignature((TensorSignature("x", "FP32", (-1,)),), (), False)
    champion = replace(CHAMPION, engine=Echo(), signature=signature, front=Plain())
    endpoint.publish(champion)
    always = FallbackSpec(errors=0.05, back_after_s=0.05, shadow=1.0)
    observer = ChampionObserver(always, champion, None)
    guardian.guard(observer, replace(champion, version="2", engine=Broken()))
    for _ in range(60):
        observer.failed(champion)
    guardian.look()
    assert endpoint.steering.fallen

    async def asked() -> None:
        for _ in range(60):
            with suppress(RuntimeError):
                await endpoint.infer({"x": np.ones(1, np.float32)}, Asking({}))
            await asyncio.sleep(0.002)  # the probe runs off the request's path

    asyncio.run(asked())
    time.sleep(0.06)
    guardian.look()
    assert not endpoint.steering.fallen
