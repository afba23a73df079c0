"""The settings of docs/production.md, followed literally.

S3, PostgreSQL, a Prefect server elsewhere and a work pool: the server is somebody else's, with its
own password. Only the settings link it to the workspace.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml
from moto.server import ThreadedMotoServer

from infra.settings import Settings
from infra.stores.layout import registration_file
from tests.conftest import pointed_at
from tests.databases import PASSWORD, postgresql, programs
from tests.integration.conftest import EXAMPLES, images, serve

pytestmark = pytest.mark.timeout(400)
ROOT = EXAMPLES.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Somebody else's Prefect server with its scheduler and a password: not this workspace's."""
    from flows.orchestration.runtime import server

    elsewhere = Settings(workspace=tmp_path_factory.mktemp("elsewhere"))
    with server(elsewhere, services=True) as address:
        yield address, elsewhere.secret().basic


@pytest.fixture(scope="module")
def stores() -> Iterator[dict[str, str]]:
    """Return what names a bucket and a database in the settings."""
    if programs() is None:
        pytest.skip("no PostgreSQL: bash tests/services/packages.sh installs it")
    bucket = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    bucket.start()
    host, port = bucket.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with postgresql("mlflow") as database:
            made = boto3.client(
                "s3", endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="b"
            )
            made.create_bucket(Bucket="requant")
            yield keys | {
                "REQUANT_STORE_URL": "s3://requant/production",
                "REQUANT_S3_ENDPOINT_URL": endpoint,
                "REQUANT_MLFLOW_TRACKING_URI": database,
            }
    finally:
        bucket.stop()


@pytest.fixture(scope="module")
def deployed(
    server: tuple[str, str], stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Deploy a model on a schedule of seconds by the command; settings alone point at all of it."""
    from tasks.models.catalog import register

    folder = tmp_path_factory.mktemp("deploy")
    before = dict(os.environ)
    os.environ |= stores
    os.environ["REQUANT_PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"] = server
    try:
        for settings in pointed_at(folder / "workspace"):
            shutil.copytree(EXAMPLES / "digits", folder / "digits")
            path = folder / "digits" / "model.yaml"
            often = "schedule: {slug: often, interval: 5}"
            path.write_text(re.sub(r"^schedule:.*$", often, path.read_text(), flags=re.M))
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
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def ask(server: tuple[str, str], path: str, **document: Any) -> Any:
    address, credentials = server
    user, _, password = credentials.partition(":")
    return (
        httpx.post(f"{address}/{path}", json=document, auth=(user, password))
        .raise_for_status()
        .json()
    )


def test_a_process_worker_runs_what_the_schedule_creates(
    server: tuple[str, str], deployed: Settings, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "prefect",
                "worker",
                "start",
                "--pool",
                "requant",
                "--type",
                "process",
                "--limit",  # one run at a time: what is under way is all that a stop waits for
                "1",
            ],
            env={**os.environ, "PREFECT_API_URL": server[0], "PREFECT_WORKER_QUERY_SECONDS": "2"},
            stdout=out,
            stderr=out,
        )
        try:
            deadline = time.monotonic() + 240
            while not (promoted("digits") and champion_is_mirrored(deployed)):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(1)
        finally:
            worker.terminate()  # it takes no further run, and ends when the one under way has
            worker.wait(240)
    assert champion_loads_for_anybody(deployed)
    runs = ask(
        server,
        "flow_runs/filter",
        flow_runs={"state": {"type": {"any_": ["COMPLETED", "RUNNING"]}}},
    )
    assert [one for one in runs if one["name"] == "maintain-digits" and one["auto_scheduled"]]


def promoted(model: str) -> bool:
    from tasks.promotion import journal
    from tasks.promotion.ledger import EntryKind

    return any(one.kind is EntryKind.PROMOTED for one in journal.read(model))


def champion_is_mirrored(deployed: Settings) -> bool:
    """Whether MLflow names it too: the ledger's entry comes first, and a stop may fall between."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        MlflowClient(deployed.mlflow_uri).get_model_version_by_alias("digits", "champion")
    except MlflowException:
        return False
    return True


def champion_loads_for_anybody(deployed: Settings) -> bool:
    """Load it with nothing of Requant but MLflow's own endpoint and address.

    `use_workspace` passed them on to its clients.
    """
    code = (
        "import mlflow, numpy, os\n"
        "mlflow.set_tracking_uri(os.environ['REQUANT_MLFLOW_TRACKING_URI'])\n"
        "model = mlflow.pyfunc.load_model('models:/digits@champion')\n"
        "print(len(model.predict({'image': numpy.zeros((1, 1, 8, 8), numpy.float32)})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return True


def test_the_doctor_writes_and_deletes_a_file_in_each_store(deployed: Settings) -> None:
    done = requant("doctor", "--json")
    checks = {one["what"]: one for one in json.loads(done.stdout)}
    for what in ("object store", "registry", "registry's files", "Prefect"):
        assert checks[what]["state"] == "fine", checks[what]
    assert "s3://requant/production" in checks["registry's files"]["found"]
    assert PASSWORD.replace(" ", "%20") not in done.stdout, "a password is nobody's to read"
    keys = [key for key in deployed.store().list("") if "doctor" in key]
    assert keys == []


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


def test_a_machine_that_slept_wakes_up_to_one_run_of_a_model(
    server: tuple[str, str], deployed: Settings, tmp_path: Path
) -> None:
    """Nobody works on the pool: runs become late, and each new one stands in for those before."""
    from flows.orchestration.runtime import using
    from flows.schedules import drop_superseded, upcoming
    from tasks.models.catalog import register

    shutil.copytree(EXAMPLES / "digits", tmp_path / "digits")
    path = tmp_path / "digits" / "model.yaml"
    path.write_text(
        re.sub(r"^schedule:.*$", "schedule: {slug: s, interval: 2}", path.read_text(), flags=re.M)
    )
    register(path)
    assert requant("deploy").returncode == 0
    with using(*server):
        deadline = time.monotonic() + 90
        while upcoming()["digits"].late < 4:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert drop_superseded() >= 3
        assert upcoming()["digits"].late <= 2, "the newest, and one that came meanwhile"
    cancelled = ask(
        server, "flow_runs/filter", flow_runs={"state": {"name": {"any_": ["Cancelled"]}}}
    )
    assert {one["state"]["message"] for one in cancelled} == {
        "a later run of the same schedule stands in for it"
    }


def test_the_doctor_tells_a_schedule_that_nobody_runs(deployed: Settings) -> None:
    from flows.commands.doctor import judge_schedules
    from flows.schedules import Upcoming

    fine = Upcoming("digits", "2026-01-01T03:00:00+00:00", 0, 0.0, False, None)
    late = Upcoming("digits", "2026-01-01T03:00:00+00:00", 4, 7200.0, False, None)
    dead = Upcoming("digits", None, 0, 600.0, False, "2026-01-01T03:00:00+00:00")
    assert judge_schedules(["digits"], {"digits": fine}).state == "fine"
    assert judge_schedules(["digits"], {"digits": late}).state == "broken"
    assert "never created" in judge_schedules(["digits"], {"digits": dead}).found
    assert judge_schedules(["digits", "other"], {"digits": fine}).state == "broken"


def test_the_doctor_fails_where_a_server_creates_nothing_that_was_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start a real server whose scheduler does not work, as under SQLAlchemy 2.1.

    It answers, and creates no run.
    """
    from flows import schedules
    from flows.commands import doctor
    from flows.commands.deploy import deploy
    from flows.orchestration.runtime import server, using
    from tasks.models.catalog import register

    monkeypatch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED", "false")
    monkeypatch.setattr(schedules, "PATIENCE", timedelta(seconds=2))
    monkeypatch.setattr(schedules, "GRACE", timedelta(seconds=1))
    for settings in pointed_at(tmp_path / "workspace"):
        shutil.copytree(EXAMPLES / "digits", tmp_path / "digits")
        path = tmp_path / "digits" / "model.yaml"
        path.write_text(
            re.sub(
                r"^schedule:.*$", "schedule: {slug: s, interval: 1}", path.read_text(), flags=re.M
            )
        )
        register(path)
        with server(settings, services=True) as address, using(address, settings.secret().basic):
            deploy(address)
            time.sleep(5)
            found = doctor.judge_schedules(["digits"], schedules.upcoming())
    assert found.state == "broken"
    assert "never created: digits (due 20" in found.found
    assert "sqlalchemy<2.1" in found.mend


def test_prefect_yaml_is_what_the_command_prints_for_the_shipped_models(
    workspace: Settings,
) -> None:
    from flows.commands.deploy import described
    from tasks.specs.registration import use_digest

    for model in ("digits", "minilm"):  # of a model its name and spec count: nothing is exported
        spec = (EXAMPLES / model / "model.yaml").read_bytes()
        workspace.store().put(registration_file(model, "d" * 64, "spec.yaml"), spec)
        use_digest(model, "d" * 64)
    shipped = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert shipped == yaml.safe_load(described())


def test_deploying_without_a_server_says_what_to_set(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUANT_PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    done = requant("--workspace", str(workspace.root), "deploy")
    assert done.returncode == 2
    assert "REQUANT_PREFECT_API_URL" in done.stderr
