"""A release is opened once while anything holds it, and never against its signature."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.gateway import judging
from flows.gateway.follower import Follower
from flows.gateway.steering import opening
from flows.gateway.steering.opening import OpenReleases
from infra.engines.released import load_released
from infra.errors import BadInput, Tampered
from infra.gateway.batching import DynamicBatcher
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.releases import Release
from infra.settings import Settings
from tasks.models.catalog import register
from tasks.promotion import journal, ledger
from tasks.promotion.acts.promoting import promote, roll_back
from tasks.records import ReleaseRef
from tests.integration.gateways import spoilt, write_example
from tests.integration.releases import flip, released


@pytest.fixture
def two(registry_workspace: Settings) -> tuple[ReleaseRef, ReleaseRef]:
    """Release full precision and a little noise; the first is champion."""
    workspace = registry_workspace
    graph = register(write_example(workspace.root / "source", "digits")).graph
    plans = (bytes(graph.SerializeToString()), spoilt(graph, 0.01))
    first, second = (released(workspace, 0.0, "digits", plan=plan) for plan in plans)
    promote(first, None, "tester", "it passed")
    return first, second


def following(settings: Settings, keep_s: float) -> tuple[Endpoint, Follower]:
    metrics = GatewayMetrics()
    endpoint = Endpoint("digits", DynamicBatcher("digits", metrics), metrics)
    return endpoint, Follower(endpoint, OpenReleases(settings), keep_s=keep_s)


def test_a_ledger_that_vanishes_is_told_and_what_answers_does_so_on(
    registry_workspace: Settings, two: tuple[ReleaseRef, ReleaseRef], monkeypatch: Any
) -> None:
    monkeypatch.setattr("flows.gateway.follower.AGAIN_S", 0.0)
    endpoint, follower = following(registry_workspace, 60.0)
    follower.look()
    store = Path(registry_workspace.store().url.removeprefix("file://"))
    store.rename(store.with_name("unmounted"))
    for _ in range(2):  # as a folder that is not mounted, it looks like one without a next entry
        follower.look()
        assert "no longer in" in endpoint.reason
        assert endpoint.current().version == two[0].version
    store.with_name("unmounted").rename(store)
    follower.look()
    assert endpoint.reason == ""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_requests_go_before_what_is_verified_and_an_engine_is_loaded_at_their_priority(
    registry_workspace: Settings, two: tuple[ReleaseRef, ReleaseRef], monkeypatch: Any
) -> None:
    seen: dict[str, int] = {}

    def noting(name: str, do: Any) -> Any:
        def noted(*args: Any) -> Any:
            seen[name] = os.getpriority(os.PRIO_PROCESS, 0)
            return do(*args)

        return noted

    monkeypatch.setattr(Release, "require_file", noting("verified", Release.require_file))
    monkeypatch.setattr(opening, "load_released", noting("loaded", load_released))
    endpoint, follower = following(registry_workspace, 60.0)
    follower.look()
    assert endpoint.current().version == two[0].version
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert seen == {"verified": min(19, own + opening.NICER), "loaded": own}


@pytest.mark.parametrize("keep_s", [60.0, 0.0])
def test_a_rollback_finds_the_replaced_engine_loaded_for_as_long_as_it_is_kept(
    registry_workspace: Settings, two: tuple[ReleaseRef, ReleaseRef], keep_s: float
) -> None:
    first, second = two
    endpoint, follower = following(registry_workspace, keep_s)
    follower.look()
    assert endpoint.release is not None
    before = id(endpoint.release.engine)
    promote(second, first.version, "tester", "it passed")
    follower.look()
    assert endpoint.release.version == second.version
    follower.look()  # what is kept no longer is let go
    gc.collect()
    kept = [id(each) for each in gc.get_objects() if type(each) is type(endpoint.release.engine)]
    assert (before in kept) is bool(keep_s)
    roll_back("digits", first.version, "tester", "users complain", "r1")
    follower.look()
    assert endpoint.release.version == first.version
    if keep_s:
        assert id(endpoint.release.engine) == before


@pytest.mark.parametrize("broken", [np.nan, None], ids=["no-number", "raises"])
def test_a_kept_engine_that_answers_no_more_is_loaded_anew_before_it_takes_traffic(
    registry_workspace: Settings,
    two: tuple[ReleaseRef, ReleaseRef],
    monkeypatch: pytest.MonkeyPatch,
    broken: float | None,
) -> None:
    first, second = two
    endpoint, follower = following(registry_workspace, 60.0)
    follower.look()
    assert endpoint.release is not None
    kept = endpoint.release.engine
    promote(second, first.version, "tester", "it passed")
    follower.look()
    run = type(kept).run

    def breaks(engine: Any, feeds: Mapping[str, Any]) -> Any:
        if engine is not kept:
            return run(engine, feeds)
        if broken is None:
            raise RuntimeError("the device is gone")
        return {name: values * broken for name, values in run(engine, feeds).items()}

    monkeypatch.setattr(type(kept), "run", breaks)
    roll_back("digits", first.version, "tester", "users complain", "r1")
    follower.look()
    assert (endpoint.release.version, endpoint.reason) == (first.version, "")
    assert endpoint.release.engine is not kept


def test_a_model_that_decides_for_guards_is_loaded_once_though_it_is_followed(
    registry_workspace: Settings,
    two: tuple[ReleaseRef, ReleaseRef],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judging, "FOLLOW_S", 0.0)
    releases, loaded = OpenReleases(registry_workspace), list[str]()
    monkeypatch.setattr(
        opening,
        "load_released",
        lambda bundle, targets: loaded.append(bundle.digest) or load_released(bundle, targets),
    )
    judge = judging.FollowedJudge(partial(releases.standing, "digits"), "{text}")
    for _ in range(3):
        with pytest.raises(BadInput, match="no safety head"):
            judge("a text")
    assert loaded == [two[0].digest]


def test_a_kept_engine_does_not_answer_once_its_manifest_was_changed(
    registry_workspace: Settings, two: tuple[ReleaseRef, ReleaseRef]
) -> None:
    first, second = two
    endpoint, follower = following(registry_workspace, 60.0)
    follower.look()
    promote(second, first.version, "tester", "it passed")
    follower.look()
    roll_back("digits", first.version, "tester", "users complain", "r1")
    flip(registry_workspace, first, "manifest.json")
    follower.look()
    assert endpoint.release is not None
    assert endpoint.release.version == second.version
    assert "differs" in endpoint.reason


def test_a_file_that_was_changed_is_not_loaded_though_another_release_is_open(
    registry_workspace: Settings, two: tuple[ReleaseRef, ReleaseRef]
) -> None:
    _, second = two
    releases = OpenReleases(registry_workspace)
    registered = releases.registered("digits")
    promote(second, two[0].version, "tester", "it passed")
    entry = ledger.champion(journal.read("digits"))
    assert entry is not None
    flip(registry_workspace, second, "graph.onnx")
    with pytest.raises(Tampered):
        releases.release(registered, entry)
