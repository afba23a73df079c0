"""Users, tokens and roles: what they come to, and what is left of them after an end."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from flows.commands.access import users
from flows.commands.audit import verify
from infra.access import attempts
from infra.access.attempts import WRONG, Attempts
from infra.access.roles import ANY, EVERY, Grant, Role, allows, parse_grant
from infra.access.tokens import KnownTokens, new_token
from infra.errors import BadInput, NotAllowed, Tampered
from infra.settings import Settings, settings
from infra.stores import layout


@pytest.mark.parametrize(
    ("grants", "role", "model", "allowed"),
    [
        ("viewer", Role.VIEWER, "tiny", True),
        ("viewer:tiny", Role.VIEWER, "other", False),
        ("viewer:tiny", Role.VIEWER, ANY, True),
        ("viewer:tiny", Role.VIEWER, EVERY, False),
        ("operator", Role.APPROVER, "tiny", False),
        ("approver", Role.OPERATOR, "tiny", False),
        ("operator:tiny", Role.VIEWER, "tiny", True),
        ("admin:tiny", Role.APPROVER, "tiny", True),
        ("admin:tiny", Role.ADMIN, EVERY, False),
        ("admin", Role.APPROVER, "any", True),
    ],
)
def test_a_role_is_of_a_model_and_no_ladder(
    grants: str, role: Role, model: str, allowed: bool
) -> None:
    assert allows([parse_grant(grants)], role, model) is allowed


@pytest.mark.parametrize("text", ["", "root", "admin:", ":tiny", "Admin"])
def test_what_is_no_role_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="is none"):
        parse_grant(text)


def test_a_grant_reads_as_it_is_written() -> None:
    assert str(parse_grant("operator:tiny")) == "operator:tiny"
    assert parse_grant("viewer") == Grant(Role.VIEWER, EVERY)


def test_a_token_matches_its_own_hash_alone() -> None:
    (_, token, kept), (_, other, _) = new_token(), new_token()
    known = KnownTokens()
    assert "argon2id" in kept
    assert token.split("_")[-1] not in kept
    assert known.matches(token, kept)
    assert not known.matches(other, kept)
    assert known.knows(token, kept)


@pytest.fixture
def admin(workspace: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """Add the first user; this process shows their token from then on."""
    token = users.add("ada", ["admin"]).token
    show(monkeypatch, token)
    return token


def show(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("REQUANT_TOKEN", token)
    settings.cache_clear()


def test_the_first_user_is_an_admin_and_the_last_admin_stays(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="without an admin"):
        users.add("bob", ["viewer"])
    show(monkeypatch, users.add("ada", ["admin"]).token)
    for end in (lambda: users.revoke("ada"), lambda: users.add("ada", ["viewer"])):
        with pytest.raises(BadInput, match="without an admin"):
            end()
    users.add("bob", ["admin"])
    users.revoke("ada")
    assert [view.name for view in users.listed()] == ["bob"]


@pytest.mark.parametrize("name", ["schedule", "prefect", "mlflow", "api-key", "", "a b", "<b>"])
def test_a_user_bears_no_name_that_ledgers_have_for_others(workspace: Settings, name: str) -> None:
    with pytest.raises(BadInput, match="no name of a user"):
        users.add(name, ["admin"])


def test_from_the_first_user_on_nobody_acts_without_a_token(
    admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUANT_ACTOR", "ada")
    monkeypatch.delenv("REQUANT_TOKEN")
    settings.cache_clear()
    with pytest.raises(NotAllowed, match="REQUANT_TOKEN"):
        users.add("eve", ["admin"])


def test_a_revoked_or_expired_token_opens_nothing(
    admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    users.add("bob", ["viewer"])
    issued = users.issue("bob", 1)
    directory = settings().directory()
    assert directory.user_of(issued.token) is not None
    users.revoke("bob", issued.token_id)
    assert directory.user_of(issued.token) is None
    again = users.issue("bob", 1)

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=36500)

    monkeypatch.setattr("infra.access.directory.datetime", Later)
    assert directory.user_of(again.token) is None


def test_no_hash_and_no_token_leaves_by_the_log(admin: str) -> None:
    printed = json.dumps([[entry.details, entry.user] for entry in users.log()])
    assert "argon2" not in printed
    assert admin not in printed


def test_a_log_that_was_cut_off_lets_nobody_in(admin: str) -> None:
    users.add("bob", ["viewer"])
    users.revoke("bob")
    store, newest = settings().store(), settings().directory().log.entries()[-1].number
    store.delete(f"{layout.access_log()}/{newest:08d}.json")
    settings.cache_clear()
    from infra import settings as module

    module._directory.cache_clear()
    with pytest.raises(Tampered, match="access log"):
        settings().directory().accounts()


def test_different_wrong_tokens_are_limited_and_the_same_again_is_no_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempts, "_MOST_SEEN", 4096)
    counted = Attempts()
    delays = [counted.wrong("10.0.0.1", "", "the same")[0] for _ in range(50)]
    assert set(delays) == {delays[0]}
    assert counted.wait_s("10.0.0.1", "") == 0
    grown = [counted.wrong("10.0.0.1", "", f"guess {n}")[0] for n in range(WRONG.amount)]
    assert grown == sorted(grown)
    assert 0 < counted.wait_s("10.0.0.1", "") <= 300
    assert counted.wait_s("10.0.0.2", "") == 0


def test_a_token_of_one_user_is_not_guessed_from_many_addresses() -> None:
    counted = Attempts()
    for number in range(WRONG.amount):
        counted.wrong(f"10.0.0.{number}", "abc", f"guess {number}")
    assert counted.wait_s("10.9.9.9", "abc") > 0
    assert counted.wait_s("10.9.9.9", "other") == 0


def test_an_audit_verifies_the_access_log_too(admin: str) -> None:
    assert verify() == []
    first = f"{layout.access_log()}/00000001.json"
    settings().store().put(first, settings().store().get(first).replace(b"ada", b"eve"))
    assert "access" in {fault.model for fault in verify()}
