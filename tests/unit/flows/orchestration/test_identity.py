"""Who a run acts for."""

from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun

from flows.approval import approval
from flows.maintenance import maintenance
from flows.orchestration.identity import acting, actor_of, one_actor
from flows.orchestration.orchestrated import call
from flows.orchestration.orders import signed_order
from flows.reconcile import reconcile
from flows.requantize import requantize
from flows.rollback import rollback
from infra.errors import Unavailable
from infra.settings import Settings, settings


def test_a_run_of_this_process_acts_for_its_user(workspace: Settings) -> None:
    assert acting() == workspace.actor
    assert actor_of("rollback", FlowRun(flow_id=uuid4())) == workspace.actor


def test_a_run_that_a_schedule_made_acts_for_the_schedule(workspace: Settings) -> None:
    run = FlowRun(flow_id=uuid4(), deployment_id=uuid4(), auto_scheduled=True)
    assert actor_of("rollback", run) == "schedule"


def test_a_deployments_run_of_which_nothing_proves_who_started_it_names_nobody(
    workspace: Settings,
) -> None:
    assert actor_of("rollback", FlowRun(flow_id=uuid4(), deployment_id=uuid4())) == "prefect"


def test_a_deployments_run_acts_for_whoever_the_signed_order_on_it_names(
    workspace: Settings,
) -> None:
    parameters = {"model": "digits", "reason": "users complain"}
    order = signed_order("Ada", "rollback", "once", parameters)
    given = {
        "flow_id": uuid4(),
        "deployment_id": uuid4(),
        "context": order,
        "parameters": parameters,
    }
    assert actor_of("rollback", FlowRun(**given, idempotency_key="once")) == "Ada"
    assert actor_of("rollback", FlowRun(**given, idempotency_key="twice")) == "prefect"
    assert actor_of("requantize", FlowRun(**given, idempotency_key="once")) == "prefect"


def test_a_flow_inside_another_acts_for_whoever_the_outermost_acts_for(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_actor():
        before = acting()
        monkeypatch.setenv("REQUANT_ACTOR", "somebody else")
        settings.cache_clear()
        with one_actor():
            assert acting() == before
    assert acting() == "somebody else"


def test_no_flow_takes_an_actor_from_its_caller() -> None:
    for flow in (maintenance, requantize, rollback, approval, reconcile):
        assert "actor" not in flow.parameters.properties


def test_a_prefect_that_went_away_is_said_in_one_sentence(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise httpx.ConnectError("All connection attempts failed")

    monkeypatch.setattr(reconcile, "fn", gone)
    with pytest.raises(Unavailable, match="Prefect went away during reconcile"):
        call(reconcile)
