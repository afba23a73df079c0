"""Several workers behind one port serve as one: metrics, fallback and traffic."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flows.gateway.workers import Workers, working
from infra.errors import Unavailable
from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind
from tasks.traffic.storage.scan import scan
from tests.integration.gateways import Served, until
from tests.integration.test_fallback_restarted import break_the_limit, register_digits, routed

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


@pytest.fixture(scope="module")
def digits(shared_workspace: Settings, empty_registry: Path) -> Settings:
    """Register digits, whose champion is full precision itself."""
    shared_workspace.root.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_registry, shared_workspace.root / "mlflow.db")
    register_digits(shared_workspace)
    return shared_workspace


def test_two_workers_count_together_and_lose_and_double_no_row(digits: Settings) -> None:
    with served_by_two(digits, "1.0") as (workers, served):
        assert served.metric('requant_gateway_requests_total{code="200",model="digits"}') == (
            2 * ASKED
        )
        workers.processes[1].terminate()
        with pytest.raises(Unavailable, match="the gateway stopped"):
            workers.wait()
    parts = scan(digits.store(), "digits", None, None, ["request_id"])
    kept = [str(name) for part in parts for name in part["request_id"].to_pylist()]
    assert len(kept) == len(set(kept)) == 2 * ASKED


def test_where_one_worker_falls_back_the_other_does_within_a_second(digits: Settings) -> None:
    with served_by_two(digits, "0") as (workers, served):
        with alone(workers, 0):
            break_the_limit(served)
        with alone(workers, 1):
            until(lambda: routed(served) == "fallback", 1.0)
            assert served.metric('requant_gateway_fallen_back{model="digits"}') == 1.0
        until(lambda: {routed(served) for _ in range(8)} == {""}, 60)
    kinds = [entry.kind for entry in journal.read("digits")]
    assert (kinds.count(EntryKind.FELL_BACK), kinds.count(EntryKind.RETURNED)) == (1, 1)
