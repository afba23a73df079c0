"""Every command and flow has a role, and who lacks it is refused wherever the act is begun."""

from collections.abc import Callable
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from flows.approval import approval
from flows.cli import app
from flows.cli.access.permissions import ROLES, commands
from flows.commands.access import users
from flows.gateway.steering import ordering
from flows.orchestration.identity import actor_of, authorized
from flows.orchestration.server import role_of as prefects
from flows.rollback import rollback
from infra.access.roles import EVERY, Needs, Role
from infra.errors import NotAllowed, NotFound, Refused
from infra.identifiers import Digest
from infra.settings import Settings, settings
from infra.tracking_server import role_of as mlflows
from tasks.drift.report.server import role_of as evidentlys
from tasks.promotion import entries, journal, ledger, projection
from tasks.records import ReleaseRef


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


RELEASE = ReleaseRef("tiny", "2", Digest("r" * 64))


def asked_by(actor: str, policy: str) -> None:
    journal.commit("tiny", entries.approval_requested, RELEASE, None, actor, "try it", policy)


def test_nobody_approves_what_they_asked_for_where_the_spec_wants_four_eyes(
    staffed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    users.add("paul", ["operator:tiny", "approver:tiny"])
    asked_by("paul", "four-eyes")
    answered: list[str] = []
    monkeypatch.setattr("tasks.promotion.acts.promoting.intact_release", lambda *_: RELEASE)
    monkeypatch.setattr(
        "tasks.promotion.acts.promoting.promote", lambda *given: answered.append(given[2])
    )
    monkeypatch.setattr("tasks.promotion.projection.show", lambda _: None)
    act_as("paul", monkeypatch)
    with pytest.raises(NotAllowed, match="four eyes"):
        approval.fn("tiny", "2", True)
    with pytest.raises(NotAllowed, match="four eyes"):  # a delivery would approve it, too
        ordering._deliverer("tiny", journal.read("tiny"), "2")
    assert "paul" in {entry.actor for entry in users.log() if entry.kind == "refused"}
    act_as("ada", monkeypatch)
    approval.fn("tiny", "2", True)
    assert answered == ["ada"]
    assert [entry.actor for entry in journal.read("tiny")][-1] == "ada"


def test_whoever_asked_may_take_it_back(staffed: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    users.add("paul", ["operator:tiny", "approver:tiny"])
    asked_by("paul", "four-eyes")
    monkeypatch.setattr("tasks.promotion.projection.show", lambda _: None)
    act_as("paul", monkeypatch)
    approval.fn("tiny", "2", False)
    assert not ledger.pending_approvals(journal.read("tiny"))


def test_four_eyes_want_people_who_are_known(workspace: Settings) -> None:
    asked_by("paul", "four-eyes")
    with pytest.raises(Refused, match="users add"):
        approval.fn("tiny", "2", True)


def test_an_alias_that_was_moved_is_no_way_around_four_eyes(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SimpleNamespace(approval="four-eyes")
    monkeypatch.setattr("tasks.promotion.projection.current_spec", lambda _: spec)
    check = projection._followed("tiny", "2")
    assert not check.verified
    assert "four eyes" in check.reason


@pytest.mark.parametrize(
    ("role_of", "method", "path", "role"),
    [
        (prefects, "GET", "/runs", Role.VIEWER),
        (prefects, "POST", "/api/flow_runs/filter", Role.VIEWER),
        (prefects, "POST", "/api/block_documents/filter", Role.ADMIN),
        (prefects, "GET", "/api/block_documents/name", Role.ADMIN),
        (prefects, "POST", "/api/flow_runs/some-id/set_state", Role.OPERATOR),
        (prefects, "POST", "/api/deployments/some-id/create_flow_run", Role.ADMIN),
        (prefects, "POST", "/api/deployments/", Role.ADMIN),
        (prefects, "DELETE", "/api/flow_runs/filter", Role.ADMIN),
        (mlflows, "GET", "/ajax-api/2.0/mlflow/registered-models/search", Role.VIEWER),
        (mlflows, "POST", "/ajax-api/2.0/mlflow/runs/search", Role.VIEWER),
        (mlflows, "POST", "/api/2.0/mlflow/registered-models/alias", Role.ADMIN),
        (mlflows, "DELETE", "/api/2.0/mlflow/model-versions/delete", Role.ADMIN),
        (evidentlys, "GET", "/api/projects", Role.VIEWER),
        (evidentlys, "POST", "/api/projects", Role.ADMIN),
    ],
)
def test_what_changes_in_the_neighbours_needs_more_than_a_viewer(
    role_of: Callable[[str, str], Needs], method: str, path: str, role: Role
) -> None:
    assert role_of(method, path) == (role, EVERY)
