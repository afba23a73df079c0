"""Every command and flow has a role, and who lacks it is refused wherever the act is begun."""

from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from flows.cli import app
from flows.cli.access.permissions import ROLES, commands
from flows.commands.access import users
from flows.orchestration.identity import actor_of, authorized
from flows.rollback import rollback
from infra.access.roles import EVERY, Role
from infra.errors import NotAllowed, NotFound, Refused
from infra.settings import Settings, settings


def test_every_command_has_a_role_in_the_table() -> None:
    assert set(commands(app)) == set(ROLES)


@pytest.fixture
def staffed(workspace: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Give the store an admin, for whom this process acts, and an operator of one model."""
    monkeypatch.setenv("REQUANT_TOKEN", users.add("ada", ["admin"]).token)
    settings.cache_clear()
    users.add("olga", ["operator:tiny"])
    return settings()


def act_as(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUANT_TOKEN", users.issue(name, 1).token)
    settings.cache_clear()


def test_a_command_acts_for_the_owner_of_the_token(
    staffed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUANT_ACTOR", "somebody else")
    act_as("olga", monkeypatch)
    assert authorized(Role.OPERATOR, "tiny", "roll tiny back") == "olga"
    for role, model in ((Role.APPROVER, "tiny"), (Role.OPERATOR, "other"), (Role.OPERATOR, EVERY)):
        with pytest.raises(NotAllowed, match="olga may not"):
            authorized(role, model, "do it")
    refused = [entry for entry in users.log() if entry.kind == "refused"]
    assert {entry.actor for entry in refused} == {"olga"}


def test_a_flow_is_refused_before_it_does_anything(
    staffed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    act_as("olga", monkeypatch)
    with pytest.raises(NotAllowed):
        rollback.fn("other", "because")
    with pytest.raises((NotFound, Refused)) as caught:
        rollback.fn("tiny", "because")
    assert not isinstance(caught.value, NotAllowed)


def test_a_run_that_nothing_proves_who_started_may_do_nothing(staffed: Settings) -> None:
    unproven = actor_of("rollback", FlowRun(flow_id=uuid4(), deployment_id=uuid4()))
    scheduled = actor_of(
        "maintenance", FlowRun(flow_id=uuid4(), deployment_id=uuid4(), auto_scheduled=True)
    )
    directory = staffed.directory()
    with pytest.raises(NotAllowed):
        directory.require(unproven, Role.OPERATOR, "tiny", "roll tiny back")
    directory.require(scheduled, Role.OPERATOR, "tiny", "maintain tiny")
    with pytest.raises(NotAllowed):
        directory.require(scheduled, Role.APPROVER, "tiny", "approve")


def test_a_token_does_not_travel(staffed: Settings) -> None:
    assert not [name for name in staffed.travelling() if name == "REQUANT_TOKEN"]
    assert staffed.token is not None
    assert staffed.token.get_secret_value() not in repr(staffed)
