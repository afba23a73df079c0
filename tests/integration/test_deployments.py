"""What is deployed: flows by their module paths, with forms that explain themselves."""

from importlib import import_module

import pytest

from infra.settings import Settings
from tests.integration.conftest import EXAMPLES


def test_every_entrypoint_is_a_flow_named_by_its_module_path(workspace: Settings) -> None:
    from prefect import Flow

    from flows.deployments import all_deployments

    for deployment in all_deployments():
        module, _, name = str(deployment.entrypoint).rpartition(".")
        assert isinstance(getattr(import_module(module), name), Flow)


def test_the_form_explains_every_parameter_and_asks_for_no_name() -> None:
    from flows.deployments import ON_DEMAND

    for flow in ON_DEMAND:
        assert "actor" not in flow.parameters.properties
        for name, field in flow.parameters.properties.items():
            assert field.get("description"), f"{flow.name}: {name} has no description"


def test_a_model_whose_registration_is_damaged_stops_no_others_schedule(
    workspace: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    from flows.deployments import all_deployments
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    workspace.store().put("models/broken/current", b"{")
    served = [one.name for one in all_deployments() if one.flow_name == "maintenance"]
    assert served == ["digits"]
    assert "broken is not scheduled" in caplog.text
