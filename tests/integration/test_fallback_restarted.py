"""A fallback outlives `requant up`: the next one goes on in it, and comes back by its policy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind
from tests.integration.conftest import images, serve
from tests.integration.fallbacks import FALLBACK, break_the_limit, came_back, incident, routed
from tests.integration.gateways import Served, serving, until, write_example
from tests.integration.test_up import SEEN_S, Up, key, running


def of(up: Up) -> Served:
    served = Served(up.workspace, up.addresses["Gateway"], key(up.workspace))
    until(lambda: served.get("/v2/health/ready").status_code == 200, SEEN_S)
    return served


@pytest.mark.soak
def test_a_gateway_that_is_started_again_goes_on_in_fallback_and_comes_back(
    limited_digits: Settings,
) -> None:
    with serving(limited_digits, REQUANT_GATEWAY_CAPTURE="0") as served:
        break_the_limit(served)
    with serving(limited_digits, REQUANT_GATEWAY_CAPTURE="0") as served:
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
