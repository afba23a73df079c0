"""Several workers behind one port serve as one: metrics, fallback and traffic."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import pytest

from flows.gateway.workers import Workers, working
from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind
from tasks.traffic.storage.scan import scan
from tests.integration.fallbacks import break_the_limit, routed
from tests.integration.gateways import Served, until

pytestmark = pytest.mark.soak
ASKED = 40


@contextmanager
def alone(workers: Workers, place: int) -> Iterator[None]:
    """Let only one of the workers answer."""
    others = [psutil.Process(p.pid) for at, p in enumerate(workers.processes) if at != place]
    for other in others:
        other.suspend()
    try:
        yield
    finally:
        for other in others:
            other.resume()


@contextmanager
def served_by_two(workspace: Settings, capture: str) -> Iterator[tuple[Workers, Served]]:
    """Serve by two workers, both of which answer."""
    settings = workspace.model_copy(update={"gateway_port": 0})
    with working(settings, 2, {"REQUANT_GATEWAY_CAPTURE": capture}) as workers:
        headers = {"Authorization": f"Bearer {workspace.secret().key}"}
        served = Served(workspace, workers.address, headers)
        for place in (0, 1):
            with alone(workers, place):  # it answers no earlier than it can
                assert {routed(served) for _ in range(ASKED)} == {""}
        yield workers, served


def ask_named(served: Served, name: str, count: int = ASKED) -> set[str]:
    """Ask so often, each time under another id, and return the ids."""
    image = np.full((1, 1, 8, 8), 0.5, np.float32)
    names = {f"{name}.{place}" for place in range(count)}
    for each in names:
        answer = served.infer("digits", "image", image, {"X-Request-Id": each})
        assert answer.status_code == 200, answer.text
    return names


def captured(settings: Settings) -> list[str]:
    """Return the ids of all that is traffic."""
    parts = scan(settings.store(), "digits", None, None, ["request_id"])
    return [str(name) for part in parts for name in part["request_id"].to_pylist()]


def named(kept: list[str]) -> set[str]:
    """Return the ids as they were asked with."""
    return {name.rpartition("-")[0] for name in kept}


def test_two_workers_count_together_and_lose_and_double_no_row(limited_digits: Settings) -> None:
    with served_by_two(limited_digits, "1.0") as (_, served):
        assert served.metric('requant_gateway_requests_total{code="200",model="digits"}') == (
            2 * ASKED
        )
    kept = captured(limited_digits)
    assert len(kept) == len(set(kept)) == 2 * ASKED


def test_a_killed_worker_loses_what_was_not_stored_yet_and_another_takes_its_place(
    limited_digits: Settings,
) -> None:
    with served_by_two(limited_digits, "1.0") as (workers, served):
        with alone(workers, 1):
            before = ask_named(served, "before")
            until(lambda: before <= named(captured(limited_digits)))
            ask_named(served, "late")  # some of these, or none, are stored by then
        killed = workers.processes[1].pid
        os.kill(killed, signal.SIGKILL)
        meanwhile = ask_named(served, "meanwhile")
        until(lambda: workers.look() or workers.processes[1].pid != killed)
        after = ask_named(served, "after")
        with alone(workers, 1):  # it answers no earlier than it can
            after |= ask_named(served, "again")
    kept = captured(limited_digits)
    assert len(kept) == len(set(kept))
    assert before | meanwhile | after <= named(kept)


def test_where_one_worker_falls_back_the_other_does_within_a_second(
    limited_digits: Settings,
) -> None:
    with served_by_two(limited_digits, "0") as (workers, served):
        with alone(workers, 0):
            break_the_limit(served)
        with alone(workers, 1):
            until(lambda: routed(served) == "fallback", 1.0)
            assert served.metric('requant_gateway_fallen_back{model="digits"}') == 1.0
        until(lambda: {routed(served) for _ in range(8)} == {""}, 60)
    kinds = [entry.kind for entry in journal.read("digits")]
    assert (kinds.count(EntryKind.FELL_BACK), kinds.count(EntryKind.RETURNED)) == (1, 1)
