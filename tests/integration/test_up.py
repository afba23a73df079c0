"""`requant up` starts every service on 127.0.0.1, serves the deployments, and stops them all on Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from infra.settings import Settings
from tests.integration.conftest import EXAMPLES

pytestmark = pytest.mark.timeout(300)
SERVICES = ("Prefect", "MLflow", "Evidently", "console")


@contextmanager
def running(workspace: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    from flows.runtime import free_port

    ports = {f"REQUANT_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "CONSOLE", "EVIDENTLY")}
    environment = {**os.environ, **ports, "REQUANT_WORKSPACE": str(workspace), "PYTHONUNBUFFERED": "1"}
    environment.pop("PREFECT_API_URL", None)
    environment.pop("REQUANT_PREFECT_API_URL", None)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up"],
            stdout=out,
            stderr=out,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as for a shell's background job
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # it ends its services; killing it would leave them behind
                process.wait(60)


def said(log: Path, process: subprocess.Popen[bytes], word: str, seconds: float = 150) -> str:
    """What was printed by the time the word is in it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        text = log.read_text()
        if word in text:
            return text
        assert process.poll() is None, text
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_up_serves_everything_and_stops_cleanly(workspace: Settings, tmp_path: Path) -> None:
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    log = tmp_path / "up.log"
    with running(workspace.root, log) as process:
        text = said(log, process, "Ctrl-C")
        addresses = dict(re.findall(rf"^({'|'.join(SERVICES)})\s+(http://127\.0\.0\.1:\d+)", text, re.M))
        assert set(addresses) == set(SERVICES), text
        assert httpx.get(f"{addresses['Prefect']}/api/health").is_success
        assert httpx.get(f"{addresses['MLflow']}/health").is_success
        assert httpx.get(f"{addresses['console']}/health").is_success
        assert httpx.get(f"{addresses['Evidently']}/api/projects").json() == []
        wanted = {
            "maintenance/digits",
            "requantize/requant",
            "rollback/requant",
            "approval/requant",
            "reconcile/requant",
        }
        assert wanted <= _deployments(addresses["Prefect"], wanted)
        process.send_signal(signal.SIGINT)
        assert process.wait(150) == 0, log.read_text()
    for address in addresses.values():
        with pytest.raises(httpx.TransportError):
            httpx.get(address)


def _deployments(prefect: str, wanted: set[str]) -> set[str]:
    deadline = time.monotonic() + 90
    names: set[str] = set()
    while time.monotonic() < deadline and not wanted <= names:
        found = httpx.post(f"{prefect}/api/deployments/filter", json={}).json()
        flows = {one["id"]: one["name"] for one in httpx.post(f"{prefect}/api/flows/filter", json={}).json()}
        names = {f"{flows[one['flow_id']]}/{one['name']}" for one in found}
        time.sleep(0.5)
    return names
