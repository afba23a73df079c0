"""`requant users`: who may do what, their tokens, and what the access log says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.orchestration.identity import process_actor
from infra.access.access_log import Decide
from infra.access.accounts import AccessKind, Accounts, User, event
from infra.access.directory import RESERVED, Directory
from infra.access.roles import Grant, parse_grant
from infra.access.tokens import new_token
from infra.canonical import Json
from infra.errors import BadInput, NotFound
from infra.settings import settings

FIRST_DAYS = 30
"""How long the first admin's token is valid."""
RECOVERY = "recovery"
"""Beginning of the actor of what was done without an admin's token."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class UserView:
    """A user as the list shows them."""

    name: str
    roles: str
    oidc: str
    tokens: Mapping[str, str]  # id -> until when it is valid


@dataclass(frozen=True, slots=True)
class AddedUser:
    """A user that was added, or given other roles."""

    name: str
    roles: str
    token: str  # of the first one, to put into REQUANT_TOKEN; empty for others


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token, the one time that it is seen."""

    user: str
    token_id: str
    expires: str
    token: str


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """One entry of the access log."""

    number: int
    time: str
    kind: str
    actor: str
    user: str
    details: str


def add(name: str, roles: Sequence[str], oidc: str = "") -> AddedUser:
    """Add a user, or give a known one other roles; the first gets a token.

    Raises:
        BadInput: The name or a role is none, or nobody would be admin of all models.
    """
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise BadInput(
            f"{name!r} is no name of a user: take letters, digits and . _ @ + -, and none of "
            f"{', '.join(RESERVED)}"
        )
    grants = tuple(dict.fromkeys(map(parse_grant, roles)))
    if not grants:
        raise BadInput(f"{name} has no role: give --role, once for each")
    actor, directory = process_actor(), settings().directory()

    def decide(accounts: Accounts) -> Mapping[str, Json] | None:
        _require_admin_left(accounts, name, User(name, grants, oidc))
        _require_free(accounts, name, oidc)
        known = accounts.users.get(name)
        if known is not None and (known.grants, known.oidc) == (grants, oidc):
            return None
        kind = AccessKind.USER_ADDED if known is None else AccessKind.ROLES_CHANGED
        return event(kind, actor, name, roles=[str(grant) for grant in grants], oidc=oidc)

    is_first = not directory.in_use
    _commit(directory, decide)
    issued = _issue(name, FIRST_DAYS, name) if is_first else None
    return AddedUser(name, _words(grants), issued.token if issued else "")


def revoke(name: str, token: str | None = None) -> str:
    """End a user, with all tokens and sessions, or one token of theirs; say what ended.

    Raises:
        NotFound: There is no such user, or no such token of theirs.
        BadInput: Nobody would be admin of all models.
    """
    actor, directory = process_actor(), settings().directory()

    def decide(accounts: Accounts) -> Mapping[str, Json] | None:
        user = _known(accounts, name)
        if token is None:
            _require_admin_left(accounts, name, None)
            return event(AccessKind.USER_REVOKED, actor, user.name)
        issued = accounts.tokens.get(token)
        if issued is None or issued.user != name:
            raise NotFound(f"{name} has no token {token}: `requant users list` shows their ids")
        return None if issued.revoked else event(AccessKind.TOKEN_REVOKED, actor, name, token=token)

    _commit(directory, decide)
    return f"user {name}" if token is None else f"token {token} of {name}"


def issue(name: str, days: int) -> IssuedToken:
    """Make a token for a user.

    Raises:
        NotFound: There is no such user.
    """
    return _issue(name, days, process_actor())


def recover(name: str) -> IssuedToken:
    """Make a token of a day for a user, whoever asks; raises `NotFound`."""
    return _issue(name, 1, f"{RECOVERY} by {settings().actor}")


def _issue(name: str, days: int, actor: str) -> IssuedToken:
    directory = settings().directory()
    token_id, token, kept = new_token()
    expires = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")

    def decide(accounts: Accounts) -> Mapping[str, Json]:
        user = _known(accounts, name)
        details: dict[str, Json] = {"token": token_id, "hash": kept, "expires": expires}
        return event(AccessKind.TOKEN_ISSUED, actor, user.name, **details)

    _commit(directory, decide)
    return IssuedToken(name, token_id, expires, token)


def listed() -> list[UserView]:
    """Return every user, by name, with the tokens that are valid."""
    accounts, now = settings().directory().accounts(), datetime.now(UTC)
    return [
        UserView(
            user.name,
            _words(user.grants),
            user.oidc,
            {
                token.token_id: token.expires.isoformat()
                for token in accounts.tokens.values()
                if token.user == user.name and token.is_valid(now)
            },
        )
        for user in sorted(accounts.users.values(), key=lambda user: user.name)
    ]


def log() -> list[AccessEntry]:
    """Return the access log, newest entry first, without the hashes of tokens."""
    return [
        AccessEntry(
            link.number,
            link.time,
            str(link.body["kind"]),
            str(link.body["actor"]),
            str(link.body["user"]),
            _told(link.body["details"]),
        )
        for link in reversed(settings().directory().log.entries())
    ]


def _told(details: Json) -> str:
    if not isinstance(details, Mapping):
        return ""
    return ", ".join(
        f"{name} {value}" for name, value in details.items() if name != "hash" and value
    )


def _commit(directory: Directory, decide: Decide) -> None:
    directory.log.commit(decide)
    directory.changed()


def _known(accounts: Accounts, name: str) -> User:
    user = accounts.users.get(name)
    if user is None:
        raise NotFound(f"there is no user {name}: `requant users list` shows them")
    return user


def _require_free(accounts: Accounts, name: str, oidc: str) -> None:
    for user in accounts.users.values():
        if oidc and user.oidc == oidc and user.name != name:
            raise BadInput(f"{oidc} is {user.name} already: one identity is one user")


def _require_admin_left(accounts: Accounts, name: str, user: User | None) -> None:
    """Refuse what would leave nobody who could add users, the first of all included."""
    others = [admin for admin in accounts.admins if admin != name]
    if not others and (user is None or not user.is_admin):
        raise BadInput(
            f"{name} would leave this store without an admin of all models: give "
            "`--role admin` to somebody first"
        )


def _words(grants: Sequence[Grant]) -> str:
    return ", ".join(map(str, grants))
