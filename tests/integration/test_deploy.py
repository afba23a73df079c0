"""`requant deploy`: a work pool on any Prefect server, whose process worker runs what the schedule creates."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from infra.settings import Settings
from tests.conftest import pointed_at
from tests.integration.conftest import EXAMPLES, images, serve

pytestmark = pytest.mark.timeout(400)
ROOT = EXAMPLES.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Somebody else's Prefect server with its scheduler and a password: not this workspace's."""
    from flows.runtime import server

    elsewhere = Settings(workspace=tmp_path_factory.mktemp("elsewhere"))
    with server(elsewhere, services=True) as address:
        yield address, elsewhere.secret().basic


@pytest.fixture(scope="module")
def deployed(server: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A workspace whose settings name that server, with a model on a schedule of seconds, deployed by the command."""
    from tasks.models.catalog import register

    folder = tmp_path_factory.mktemp("deploy")
    before = dict(os.environ)
    os.environ["REQUANT_PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"] = server
    try:
        for settings in pointed_at(folder / "workspace"):
            shutil.copytree(EXAMPLES / "digits", folder / "digits")
            path = folder / "digits" / "model.yaml"
            path.write_text(
                re.sub(r"^schedule:.*$", "schedule: {slug: often, interval: 5}", path.read_text(), flags=re.M)
            )
            register(path)
            serve(settings, "digits", 0, images(0.5, 1.0))
            done = requant("deploy", "--json")
            assert done.returncode == 0, done.stderr
            yield settings
    finally:
        os.environ.clear()
        os.environ.update(before)


def requant(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def ask(server: tuple[str, str], path: str, **document: Any) -> Any:
    address, credentials = server
    user, _, password = credentials.partition(":")
    return httpx.post(f"{address}/{path}", json=document, auth=(user, password)).raise_for_status().json()


def test_a_process_worker_runs_what_the_schedule_creates(server: tuple[str, str], deployed: Settings) -> None:
    from tasks.promotion import journal
    from tasks.promotion.ledger import Kind

    log = deployed.root / "worker.log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "requant", "--type", "process"],
            env={**os.environ, "PREFECT_API_URL": server[0], "PREFECT_WORKER_QUERY_SECONDS": "2"},
            stdout=out,
            stderr=out,
        )
        try:
            deadline = time.monotonic() + 240
            while not [one for one in journal.read("digits") if one.kind is Kind.PROMOTED]:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(1)
        finally:
            worker.terminate()
            worker.wait(60)
    runs = ask(server, "flow_runs/filter", flow_runs={"state": {"type": {"any_": ["COMPLETED", "RUNNING"]}}})
    assert [one for one in runs if one["name"] == "maintain-digits" and one["auto_scheduled"]]


def test_deploying_again_changes_nothing_and_drops_what_an_earlier_spec_scheduled(
    server: tuple[str, str], deployed: Settings, tmp_path: Path
) -> None:
    from tasks.models.catalog import register

    names = {one["id"]: one["name"] for one in ask(server, "deployments/filter")}
    shutil.copytree(EXAMPLES / "digits", tmp_path / "digits")
    register(tmp_path / "digits" / "model.yaml")
    assert requant("deploy").returncode == 0
    assert {one["id"]: one["name"] for one in ask(server, "deployments/filter")} == names
    (maintained,) = ask(server, "deployments/filter", deployments={"name": {"any_": ["digits"]}})
    assert [one["slug"] for one in maintained["schedules"]] == ["nightly"]
    assert maintained["work_pool_name"] == "requant"


def test_the_doctor_tells_a_schedule_that_nobody_runs(deployed: Settings) -> None:
    from flows.doctor import judge_schedules
    from flows.schedules import Upcoming

    fine = Upcoming("digits", "2026-01-01T03:00:00+00:00", 0, 0.0, False, None)
    late = Upcoming("digits", "2026-01-01T03:00:00+00:00", 4, 7200.0, False, None)
    dead = Upcoming("digits", None, 0, 600.0, False, "2026-01-01T03:00:00+00:00")
    assert judge_schedules(["digits"], {"digits": fine}).state == "fine"
    assert judge_schedules(["digits"], {"digits": late}).state == "broken"
    assert "never created" in judge_schedules(["digits"], {"digits": dead}).found
    assert judge_schedules(["digits", "other"], {"digits": fine}).state == "broken"


def test_prefect_yaml_is_what_the_command_prints_for_the_shipped_models(workspace: Settings) -> None:
    from flows.deploy import described
    from tasks.models.catalog import register

    for model in ("digits", "minilm"):
        register(EXAMPLES / model / "model.yaml")
    shipped = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert shipped == yaml.safe_load(described())


def test_deploying_without_a_server_says_what_to_set(workspace: Settings) -> None:
    done = requant("--workspace", str(workspace.root), "deploy")
    assert done.returncode == 2
    assert "REQUANT_PREFECT_API_URL" in done.stderr
