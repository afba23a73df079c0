"""A checkpoint under `requant up`: the schedule does it all, people answer through Prefect, MLflow.

The steps alone are in `test_checkpoint_loop`, what the console shows in `tests/unit/dashboards`.
"""

from pathlib import Path

import pytest
import yaml

from infra.settings import Settings
from tests.integration.conftest import serve
from tests.integration.test_checkpoint_loop import SHIFTED, WORDS, spec, traffic, write_checkpoint
from tests.integration.test_up import running, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


def test_a_checkpoint_is_maintained_approved_and_rolled_back_by_what_runs(
    shared_workspace: Settings, tmp_path: Path
) -> None:
    from flows.orchestration.runtime import using
    from tasks.models.catalog import register

    folder = write_checkpoint(tmp_path)
    often = spec(schedule={"slug": "often", "interval": 10})
    (folder / "model.yaml").write_text(yaml.safe_dump(often))
    register(folder / "model.yaml")
    serve(shared_workspace, "large", 0, traffic(WORDS, 1, "en"))
    registry = shared_workspace.registry()
    with (
        running(shared_workspace, tmp_path / "up.log") as up,
        using(f"{up.addresses['Prefect']}/api", shared_workspace.secret().basic),
    ):
        until(lambda: written("promoted") == [("1", "schedule")])
        serve(shared_workspace, "large", 1, traffic(WORDS, 2, "en"))
        until(lambda: [version for version, _ in written("decided")] == [None])
        serve(shared_workspace, "large", 2, traffic(SHIFTED, 3, "xx"))
        until(lambda: written("promoted")[1:] == [("2", "schedule")])

        order("requantize", model="large", recipe="int8-weights", require_approval=True)
        until(lambda: registry.aliases("large").get("challenger") == "3")
        order("approval", model="large", version="3", approve=True, reason="the gates convince me")
        until(lambda: registry.aliases("large")["champion"] == "3")
        order("rollback", model="large", reason="users complain")
        until(lambda: registry.aliases("large")["champion"] == "2")
        registry.set_alias("large", "champion", "1")
        order("reconcile")
        until(lambda: written("rolled-back")[-1] == ("1", "mlflow"))


def written(kind: str) -> list[tuple[str | None, str]]:
    """Return version and actor of the ledger's entries of a kind."""
    from tasks.promotion import journal

    entries = [entry for entry in journal.read("large") if entry.kind.value == kind]
    return [(entry.version, entry.actor) for entry in entries]


def order(flow: str, **parameters: object) -> None:
    """Start a deployment's run, as the console does."""
    from flows.deployments import trigger

    trigger(flow, parameters)
