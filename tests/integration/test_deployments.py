"""`prefect.yaml` and `requant up` describe the same deployments."""

from importlib import import_module
from typing import Any

import yaml

from infra.settings import Settings
from tasks.models.spec import load_spec
from tests.integration.conftest import EXAMPLES

ROOT = EXAMPLES.parent
Key = tuple[str, str]


def described() -> dict[Key, dict[str, Any]]:
    """(entrypoint, name) -> deployment, of prefect.yaml."""
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    return {(one["entrypoint"], one["name"]): one for one in document["deployments"]}


def test_every_entrypoint_is_a_flow_named_by_its_module_path() -> None:
    from prefect import Flow

    for entrypoint, _ in described():
        module, _, name = entrypoint.rpartition(".")
        assert isinstance(getattr(import_module(module), name), Flow)


def test_schedules_are_those_of_the_shipped_specs() -> None:
    for name in ("minilm", "digits"):
        rule = load_spec(EXAMPLES / name / "model.yaml").schedule
        (schedule,) = described()["flows.maintenance.maintenance", name]["schedules"]
        assert schedule == {"slug": rule.slug, "cron": rule.cron, "timezone": rule.timezone}


def test_up_serves_the_same_deployments(workspace: Settings) -> None:
    from flows.deployments import all_deployments
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    served = {(one.entrypoint, one.name): one for one in all_deployments()}
    expected = {key for key in described() if key[1] != "minilm"}
    assert set(served) == expected
    for key, one in served.items():
        assert dict(one.parameters or {}) == described()[key].get("parameters", {})


def test_the_form_explains_every_parameter() -> None:
    from flows.deployments import ON_DEMAND

    for flow in ON_DEMAND:
        for name, field in flow.parameters.properties.items():
            assert field.get("description"), f"{flow.name}: {name} has no description"


def test_all_of_them_run_in_one_work_pool() -> None:
    assert {one["work_pool"]["name"] for one in described().values()} == {"requant"}
