"""Deployments on a real server: what applying them again leaves alone, which late runs go."""

import asyncio
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.runner import Runner
from prefect.states import Running

from infra.settings import Settings
from tests.integration.conftest import EXAMPLES

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def client(shared_workspace: Settings) -> Iterator[SyncPrefectClient]:
    """Open a client of a server that holds our deployments and creates no runs by itself."""
    from flows.deployments import all_deployments
    from flows.orchestration.runtime import server, using
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    with (
        server(shared_workspace, services=False) as address,
        using(address, shared_workspace.secret().basic),
    ):
        for one in all_deployments():
            one.apply()
        with get_client(sync_client=True) as made:
            yield made


def late_runs(client: SyncPrefectClient, deployment: UUID, count: int) -> None:
    """Let the server hold runs that a schedule made and nobody started, a minute apart."""
    first = datetime.now(UTC) - timedelta(minutes=count)
    asked = {
        "start_time": first.isoformat(),
        "end_time": datetime.now(UTC).isoformat(),
        "max_runs": count,
    }
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json=asked)


@flow
def stranger() -> None:
    """Somebody else's."""


def waiting(client: SyncPrefectClient, deployment: UUID) -> list[str]:
    from flows.schedules import _waiting

    return [
        run.name
        for run in _waiting(client, [client.read_deployment(deployment)], before=datetime.now(UTC))
    ]


def test_the_end_of_serving_pauses_nothing(
    client: SyncPrefectClient, shared_workspace: Settings
) -> None:
    from flows.commands import serving
    from flows.orchestration.services import served_mark

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(serving.serve(), 12))
    signal.signal(signal.SIGTERM, before)
    assert served_mark(shared_workspace).exists()
    assert not client.read_deployment_by_name("reconcile/reconcile").paused


def test_late_runs_of_others_on_a_shared_server_are_left_alone(client: SyncPrefectClient) -> None:
    from flows.schedules import drop_superseded

    foreign: Any = stranger.to_deployment(name="stranger", cron="* * * * *", parameters={})
    theirs = foreign.apply()
    ours = client.read_deployment_by_name("reconcile/reconcile").id
    for deployment in (theirs, ours):
        late_runs(client, deployment, 15)
    before = waiting(client, theirs)
    assert len(before) > 1
    assert len(waiting(client, ours)) > 1
    assert drop_superseded() >= 1
    assert waiting(client, theirs) == before
    assert len(waiting(client, ours)) == 1


def test_runs_whose_process_is_gone_do_not_run_forever(client: SyncPrefectClient) -> None:
    from flows.schedules import close_broken_off

    given = {"model": "digits", "reason": "r"}
    begun, waits = (
        client.create_flow_run_from_deployment(
            client.read_deployment_by_name("rollback/rollback").id,
            parameters=given,
            idempotency_key=key,
        )
        for key in ("begun", "waits")
    )
    by_hand = client.create_flow_run(stranger)
    for run in (begun, by_hand):
        client.set_flow_run_state(run.id, Running(), force=True)
    assert close_broken_off() == 1
    assert close_broken_off() == 0
    named = [client.read_flow_run(run.id).state_name for run in (begun, waits, by_hand)]
    assert named == ["Crashed", "Scheduled", "Running"]


def test_what_people_set_in_prefect_outlives_that_a_deployment_is_applied_again(
    client: SyncPrefectClient,
) -> None:
    from flows.commands.deploy import deploy
    from flows.commands.doctor import judge_schedules
    from flows.schedules import upcoming

    digits = client.read_deployment_by_name("maintenance/digits")
    (nightly,) = digits.schedules
    assert not upcoming()["digits"].paused
    assert judge_schedules(["digits"], upcoming()).found == "next runs: digits not created yet"
    client.update_deployment_schedule(digits.id, nightly.id, active=False)
    assert upcoming()["digits"].paused
    assert judge_schedules(["digits"], upcoming()).found == "next runs: digits paused"
    client.pause_deployment(digits.id)
    for _ in range(2):
        deploy("here")
        again = client.read_deployment(digits.id)
        assert (again.paused, [one.active for one in again.schedules]) == (True, [False])
    added: list[Any] = [(CronSchedule(cron="0 3 * * *", timezone="UTC"), True)]
    client.create_deployment_schedules(digits.id, added)
    for _ in range(2):
        deploy("here")
        found = {one.slug: one.active for one in client.read_deployment(digits.id).schedules}
        assert found == {"nightly": False, None: True}


def test_a_model_whose_spec_was_out_of_reach_is_scheduled_once_it_can_be_read(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:

    from flows import deployments
    from flows.commands import serving
    from infra.errors import Unavailable

    def away(name: str) -> None:
        raise Unavailable("the store does not answer")

    runner = Runner(name="test")
    with monkeypatch.context() as patched:
        patched.setattr(deployments, "current_spec", away)
        known = asyncio.run(serving._apply(runner, None))
    assert known == {"digits": ""}
    assert asyncio.run(serving._apply(runner, known)).get("digits")


def test_deployments_that_take_any_model_are_applied_once_while_none_is_registered(
    shared_workspace: Settings,
) -> None:
    from flows.commands import serving

    assert serving._shared({}, None)
    assert serving._shared({}, {}) == []
