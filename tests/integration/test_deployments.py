"""What is deployed: flows by their module paths, with forms that explain themselves."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from prefect import Flow

from flows.deployments import ON_DEMAND, all_deployments
from infra.settings import Settings
from tasks.models.catalog import register
from tests.integration.conftest import EXAMPLES


def test_every_entrypoint_is_a_flow_named_by_its_module_path(workspace: Settings) -> None:
    for deployment in all_deployments():
        module, _, name = str(deployment.entrypoint).rpartition(".")
        assert isinstance(getattr(import_module(module), name), Flow)


def test_the_form_explains_every_parameter_and_asks_for_no_name() -> None:
    for flow in ON_DEMAND:
        assert "actor" not in flow.parameters.properties
        for name, field in flow.parameters.properties.items():
            assert field.get("description"), f"{flow.name}: {name} has no description"


def test_a_model_whose_registration_is_damaged_stops_no_others_schedule(
    workspace: Settings, caplog: pytest.LogCaptureFixture
) -> None:

    register(EXAMPLES / "digits" / "model.yaml")
    workspace.store().put("models/broken/current", b"{")
    served = [one.name for one in all_deployments() if one.flow_name == "maintenance"]
    assert served == ["digits"]
    assert "broken is not scheduled" in caplog.text


@pytest.mark.parametrize("relative", [False, True])
def test_a_workers_run_is_pointed_at_the_workspace_or_refused(
    workspace: Settings, tmp_path: Path, relative: bool
) -> None:
    """Ignore the folder of the worker's own process, and its mask of new files."""
    code = """
import os
os.umask(0o022)
from flows.reconcile import reconcile
try:
    reconcile.fn()
except Exception as error:
    print(error)
print(oct(os.umask(0)), os.environ.get("MLFLOW_ALLOW_PICKLE_DESERIALIZATION"))
"""
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(EXAMPLES.parent),
        "PREFECT_HOME": str(workspace.root / "prefect"),
        "PREFECT__FLOW_RUN_ID": "01a22466-4ab1-7ac1-bf8a-d9bbb082f2e9",
        "REQUANT_WORKSPACE": ".requant" if relative else str(workspace.root),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=given,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if relative:
        assert "set REQUANT_WORKSPACE to an absolute path" in done.stdout, done.stderr
        assert not (tmp_path / ".requant").exists()
    else:
        assert done.stdout == "0o77 false\n", done.stderr


def test_a_workers_run_leaves_the_cores_to_a_gateway_but_for_what_somebody_waits_for(
    workspace: Settings, tmp_path: Path
) -> None:
    code = """
import os
from flows.intake import intake
from flows.rollback import rollback
for run in (rollback, intake, intake):
    try:
        run.fn("absent")
    except Exception:
        print(os.getpriority(os.PRIO_PROCESS, 0))
"""
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(EXAMPLES.parent),
        "PREFECT_HOME": str(workspace.root / "prefect"),
        "REQUANT_WORKSPACE": str(workspace.root),
        "REQUANT_RUN_NICE": "7",
    }
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for worker, expected in (
        ({"PREFECT__FLOW_RUN_ID": "01a22466-4ab1-7ac1-bf8a-d9bbb082f2e9"}, max(own, 7)),
        ({}, own),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=given | worker,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.split() == [str(own), str(expected), str(expected)], done.stderr
