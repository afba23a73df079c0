"""Users, their tokens and sessions, as the access log tells them. Pure.

The log is a signed chain as each model's ledger is (`infra.chain`): every account is what its
entries come to, oldest first, and nothing is ever changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from infra.access.roles import EVERY, Grant, Role, allows, parse_grant
from infra.canonical import Json
from infra.chain import Link
from infra.errors import BadInput


class AccessKind(StrEnum):
    """What happened."""

    USER_ADDED = "user-added"  # details: roles, oidc
    ROLES_CHANGED = "roles-changed"  # details: roles, oidc
    USER_REVOKED = "user-revoked"
    TOKEN_ISSUED = "token-issued"  # details: token, hash, expires  # noqa: S105  # no secret
    TOKEN_REVOKED = "token-revoked"  # details: token  # noqa: S105  # no secret
    SIGNED_IN = "signed-in"  # details: session, by
    SIGNED_OUT = "signed-out"  # details: session
    REFUSED = "refused"  # details: act, role, model
    LOCKED_OUT = "locked-out"  # too many wrong tokens; details: address


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token, without its secret."""

    token_id: str
    user: str
    kept: str  # the hash
    expires: datetime  # UTC
    revoked: bool = False

    def is_valid(self, now: datetime) -> bool:
        """Return whether it opens anything at that time."""
        return not self.revoked and now < self.expires


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who was added and not revoked."""

    name: str
    grants: tuple[Grant, ...]
    oidc: str = ""  # the identity provider's name of them
    since: str = ""  # when they were added, ISO 8601 in UTC: no session of before counts

    @property
    def is_admin(self) -> bool:
        """Whether they may do everything, also to users."""
        return allows(self.grants, Role.ADMIN, EVERY)


@dataclass(frozen=True, slots=True)
class Accounts:
    """Everybody at one moment."""

    users: Mapping[str, User] = field(default_factory=dict)
    tokens: Mapping[str, AccessToken] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()  # ids of sessions that were signed out
    in_use: bool = False  # whether there ever was a user: from then on nobody acts unnamed

    @property
    def admins(self) -> list[str]:
        """Names of those who may change users."""
        return [user.name for user in self.users.values() if user.is_admin]


def event(kind: AccessKind, actor: str, user: str, **details: Json) -> dict[str, Json]:
    """Return an entry of the access log about a user, for `Chain.append`."""
    return {"kind": kind.value, "actor": actor, "user": user, "details": details}


def accounts_of(links: Iterable[Link], before: Accounts | None = None) -> Accounts:
    """Return what the entries come to, from the accounts before them on.

    Raises:
        BadInput: An entry is of a later version of Requant.
    """
    accounts = before or Accounts()
    for link in links:
        accounts = _after(accounts, link)
    return accounts


def _after(accounts: Accounts, link: Link) -> Accounts:
    body: Mapping[str, Any] = link.body
    try:
        kind, user, details = AccessKind(body["kind"]), str(body["user"]), body["details"]
        return _applied(accounts, kind, user, details, link.time)
    except (KeyError, TypeError, ValueError, BadInput) as error:
        raise BadInput(
            f"Entry {link.number} of the access log cannot be read ({error}): upgrade Requant."
        ) from error


def _applied(
    accounts: Accounts, kind: AccessKind, user: str, details: Mapping[str, Any], time: str
) -> Accounts:
    if kind in (AccessKind.USER_ADDED, AccessKind.ROLES_CHANGED):
        grants = tuple(parse_grant(text) for text in details["roles"])
        known = accounts.users.get(user)
        since = time if known is None else known.since
        made = User(user, grants, str(details.get("oidc", "")), since)
        return replace(accounts, users={**accounts.users, user: made}, in_use=True)
    if kind is AccessKind.USER_REVOKED:
        users = {name: known for name, known in accounts.users.items() if name != user}
        tokens = {
            token_id: replace(token, revoked=True) if token.user == user else token
            for token_id, token in accounts.tokens.items()
        }
        return replace(accounts, users=users, tokens=tokens)
    if kind is AccessKind.TOKEN_ISSUED:
        expires = datetime.fromisoformat(details["expires"])
        issued = AccessToken(str(details["token"]), user, str(details["hash"]), expires)
        return replace(accounts, tokens={**accounts.tokens, issued.token_id: issued})
    if kind is AccessKind.TOKEN_REVOKED:
        revoked = replace(accounts.tokens[str(details["token"])], revoked=True)
        return replace(accounts, tokens={**accounts.tokens, revoked.token_id: revoked})
    if kind is AccessKind.SIGNED_OUT:
        return replace(accounts, ended=accounts.ended | {str(details["session"])})
    return accounts
