"""Candidates on their way to all traffic: a bad one leaves by itself, a good one gets there."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from flows.gateway.steering.ordering import deliver
from infra.settings import Settings
from tasks.promotion import journal, ledger
from tasks.promotion.serving.deliveries import Delivery, deliveries
from tasks.promotion.steps import request_approval
from tests.integration.gateways import Served, serving_itself, spoilt, until
from tests.integration.releases import released

DELIVERY = {
    "canary": [0.4],
    "sample": 1.0,
    "fidelity_drop": 0.1,
    "flips": 0.1,
    "errors": 0.2,
    "latency_ratio": 20.0,
    "step_s": 0.0,
    "bake_s": 1.0,
}


@pytest.fixture(scope="module")
def served(shared_workspace: Settings, empty_registry: Path) -> Iterator[Served]:
    """Serve digits whose champion is full precision itself."""
    with serving_itself(shared_workspace, empty_registry, {"delivery": DELIVERY}) as served:
        yield served


def begun(served: Served, noise: float) -> str:
    """Let a candidate of so much noise wait for approval, and deliver it."""
    from tasks.models.catalog import open_model

    plan = spoilt(open_model("digits").graph, noise)
    release = released(served.settings, 0.0, "digits", plan=plan)
    base = ledger.champion(journal.read("digits"))
    request_approval.fn(release, base.version if base else None, "tester", "it passed")
    deliver("digits", release.version, "try it")
    return release.version


def newest() -> Delivery:
    return deliveries(journal.read("digits"))[-1]


@contextmanager
def traffic(served: Served) -> Iterator[dict[str, set[str]]]:
    """Ask all the while; yield the versions that answered each key."""
    from tasks.models.catalog import open_model

    ended, versions, failures = threading.Event(), dict[str, set[str]](), list[str]()
    cases = open_model("digits").golden.cases

    def keep_asking(client: int) -> None:
        for place in itertools.count(client, 2):
            if ended.is_set():
                return
            image = np.asarray(cases[place % len(cases)].payload, np.float32)[None]
            key = f"user-{place % 40}"
            answer = served.infer("digits", "image", image, headers={"X-Key": key})
            if answer.status_code != 200:
                failures.append(answer.text)
                continue
            document = answer.json()
            if document["parameters"].get("routed") == "canary":
                key = f"{key} in canary"
            versions.setdefault(key, set()).add(document["model_version"])

    clients = [threading.Thread(target=keep_asking, args=(client,)) for client in range(2)]
    for client in clients:
        client.start()
    try:
        yield versions
    finally:
        ended.set()
        for client in clients:
            client.join()
    assert not failures


def test_a_bad_candidate_is_aborted_in_shadow_and_answers_nobody(served: Served) -> None:
    before = served.version("digits")
    with traffic(served) as versions:
        version = begun(served, 3.0)
        until(lambda: newest().outcome == "aborted", 60)
    assert "fidelity fail" in newest().reason
    assert served.version("digits") == before
    assert all(version not in answered for answered in versions.values())


def test_a_good_candidate_goes_over_a_sticky_canary_to_all_traffic(served: Served) -> None:
    with traffic(served) as versions:
        version = begun(served, 0.001)
        until(lambda: newest().outcome == "completed", 90)
        until(lambda: served.version("digits") == version)
    canaries = {key for key, answered in versions.items() if key.endswith("in canary")}
    assert 5 <= len(canaries) <= 30
    assert all(versions[key] == {version} for key in canaries)
    kinds = [entry.kind.value for entry in journal.read("digits")]
    assert kinds[-5:] == [
        "delivery-started",
        "delivery-stepped",
        "delivery-stepped",
        "promoted",
        "delivery-ended",
    ]
    assert ledger.champion(journal.read("digits")).actor == "gateway"  # type: ignore[union-attr]
