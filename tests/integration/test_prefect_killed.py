"""Prefect killed in the middle of a run: the ledger says one thing, and the next run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from flows.orchestration.runtime import server_environment
from flows.orchestration.services import PREFECT, listen, started
from flows.requantize import requantize
from infra.settings import Settings
from tasks.promotion import journal, ledger
from tasks.promotion.acts.reconciling import reconcile as reconciled
from tasks.promotion.ledger import EntryKind
from tests.integration.conftest import EXAMPLES, images, serve

TRIALS = 3
LONGEST_S = 420
RUN = ["-m", "flows.cli", "requantize", "digits", "--recipe", "int8-max", "--json"]


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_run_whose_prefect_was_killed_ends_in_the_ledger_once(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch, trial: int
) -> None:
    subprocess.run(
        [sys.executable, "-m", "flows.cli", "model", "add", str(EXAMPLES / "digits/model.yaml")],
        check=True,
        capture_output=True,
    )
    serve(workspace, "digits", 0, images(1.0))
    monkeypatch.setenv("REQUANT_PREFECT_PORT", "0")
    opened = listen(workspace, PREFECT)
    environment = server_environment(opened, services=False)
    with started(workspace, {PREFECT: opened}, environment=environment) as (prefect,):
        told = {
            **os.environ,
            "REQUANT_PREFECT_API_URL": f"{prefect.address}/api",
            "PREFECT_API_AUTH_STRING": workspace.secret().basic,
        }
        with subprocess.Popen([sys.executable, *RUN], env=told, stdout=subprocess.PIPE) as run:
            wait_for_intent(run)
            time.sleep(trial * 1.5)
            prefect.process.kill()
            output, _ = run.communicate(timeout=LONGEST_S)
    answer = json.loads(output)
    kinds = [entry.kind for entry in journal.read("digits")]
    assert kinds.count(EntryKind.INTENDED) == kinds.count(EntryKind.FINISHED) == 1
    if EntryKind.PROMOTED not in kinds:
        assert answer["kind"] == "Unavailable"
        assert requantize.fn("digits", recipe="int8-max").status == "promoted"
    assert not reconciled("digits").failed
    champion = ledger.champion(journal.read("digits"))
    assert champion is not None
    assert workspace.registry().aliases("digits")["champion"] == champion.version
    promotions = [entry for entry in journal.read("digits") if entry.kind is EntryKind.PROMOTED]
    assert len(promotions) == 1


def wait_for_intent(run: subprocess.Popen[bytes]) -> None:
    """Wait until the run claimed its window: it is in the middle then."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline and run.poll() is None:
        if any(entry.kind is EntryKind.INTENDED for entry in journal.read("digits")):
            return
        time.sleep(0.1)
    raise AssertionError("the run claimed no window")
