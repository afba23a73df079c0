"""A fallback outlives `requant up`: the next one goes on in it, and comes back by its policy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.acts.promoting import promote
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tests.integration.conftest import images, serve
from tests.integration.gateways import Served, serving, until, write_example
from tests.integration.releases import released
from tests.integration.test_up import SEEN_S, Up, key, running

BACK_AFTER_S = 15.0
LATE_MS = 10.0
FALLBACK = {"latency_ms": LATE_MS, "late": 0.5, "shadow": 1.0, "back_after_s": BACK_AFTER_S}
QUALITY = [{"metric": "accuracy-drop", "at_most": 0.5}]
BUDGETS = {"size_ratio": 1e-6, "latency_ratio": 50.0, "quality": QUALITY}
"""That no candidate meets, so that the champion stays."""
SLOW_ROWS = 4096
"""Of one request: what takes far longer than the limit where eight such wait together."""


@pytest.fixture
def digits(workspace: Settings, empty_registry: Path) -> Settings:
    """Register digits, whose champion is full precision itself."""
    workspace.root.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_registry, workspace.root / "mlflow.db")
    register_digits(workspace)
    return workspace


def register_digits(workspace: Settings) -> None:
    """Register digits with its limits, and promote full precision itself."""
    from tasks.models.catalog import register

    folder = workspace.root / "source"
    model = register(
        write_example(folder, "digits", serving={"fallback": FALLBACK}, budgets=BUDGETS)
    )
    plan = bytes(model.graph.SerializeToString())
    promote(released(workspace, 0.0, "digits", plan=plan), None, "tester", "it passed")


def routed(served: Served, rows: int = 1) -> str:
    """Return what routed one request of so many images."""
    image = np.full((rows, 1, 8, 8), 0.5, np.float32)
    answer = served.infer("digits", "image", image)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["parameters"].get("routed", ""))


def break_the_limit(served: Served) -> None:
    """Ask for more than can be answered in time, until traffic has left the champion."""
    with ThreadPoolExecutor(8) as clients:
        until(lambda: "fallback" in clients.map(lambda _: routed(served, SLOW_ROWS), range(16)), 60)
    until(lambda: incident() is not None)


def incident() -> LedgerEntry | None:
    """Return the newest entry where traffic left."""
    falls = (entry for entry in journal.read("digits") if entry.kind is EntryKind.FELL_BACK)
    return max(falls, key=lambda entry: entry.time, default=None)


def came_back(served: Served) -> bool:
    kinds = {entry.kind for entry in journal.read("digits")}
    return routed(served) == "" and EntryKind.RETURNED in kinds


def of(up: Up) -> Served:
    served = Served(up.workspace, up.addresses["Gateway"], key(up.workspace))
    until(lambda: served.get("/v2/health/ready").status_code == 200, SEEN_S)
    return served


@pytest.mark.soak
def test_a_gateway_that_is_started_again_goes_on_in_fallback_and_comes_back(
    digits: Settings,
) -> None:
    with serving(digits, REQUANT_GATEWAY_CAPTURE="0") as served:
        break_the_limit(served)
    with serving(digits, REQUANT_GATEWAY_CAPTURE="0") as served:
        assert {routed(served) for _ in range(5)} == {"fallback"}
        until(lambda: came_back(served), 60)
    kinds = [entry.kind for entry in journal.read("digits")]
    assert (kinds.count(EntryKind.FELL_BACK), kinds.count(EntryKind.RETURNED)) == (1, 1)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_up_goes_on_in_fallback_comes_back_and_makes_the_run_that_was_asked_for(
    workspace: Settings, tmp_path: Path
) -> None:
    from tasks.models.catalog import register

    seldom = {"slug": "seldom", "interval": 86400}
    register(
        write_example(tmp_path / "s", "digits", serving={"fallback": FALLBACK}, schedule=seldom)
    )
    serve(workspace, "digits", 0, images(0.5, 1.0))
    command = [sys.executable, "-m", "flows.cli", "maintain", "digits"]
    chosen = {**os.environ, "REQUANT_WORKSPACE": str(workspace.root)}
    made = subprocess.run(command, env=chosen, capture_output=True, timeout=300, check=False)
    kinds = {entry.kind for entry in journal.read("digits")}
    assert EntryKind.PROMOTED in kinds, made.stderr.decode()
    with running(workspace, tmp_path / "first.log", REQUANT_GATEWAY_CAPTURE="0") as first:
        break_the_limit(of(first))
    fallen = incident()
    assert fallen is not None

    def asked(up: Up) -> list[dict[str, Any]]:
        runs = up.ask("flow_runs/filter")
        key = f"incident-{fallen.digest}"
        return [run for run in runs if (run["idempotency_key"] or "").startswith(key)]

    with running(workspace, tmp_path / "second.log", REQUANT_GATEWAY_CAPTURE="0") as second:
        served = of(second)
        assert routed(served) == "fallback"
        until(lambda: [run for run in asked(second) if run["state_type"] == "COMPLETED"], SEEN_S)
        until(lambda: came_back(served), SEEN_S)
        ended = [run["state_type"] for run in asked(second)]
        assert ended.count("COMPLETED") == 1
        assert set(ended) <= {"COMPLETED", "CRASHED"}  # what the first one's end broke off
