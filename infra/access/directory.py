"""Who somebody is, and whether they may: asked at every port and before every act.

A store without users is one person's: whoever holds the workspace does everything, under the name
that they give. From the first user on, nobody acts without a proven name and a role.
"""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.access.access_log import AccessLog
from infra.access.accounts import AccessKind, Accounts, User, event
from infra.access.roles import EVERY, Grant, Role, allows
from infra.access.sessions import BY_OIDC, OIDC_S, Session
from infra.access.tokens import KnownTokens, id_of
from infra.errors import NotAllowed, RequantError, Unavailable

FRESH_S = 2.0
"""For how long what was read answers: within it a revoked token is refused everywhere."""
LASTS_S = 300.0
"""For how long it answers where the store does not."""
SAME_REFUSAL_S = 60.0
"""Within which the same refusal of the same user is noted once."""
SERVICES: dict[str, tuple[Grant, ...]] = {"schedule": (Grant(Role.OPERATOR, EVERY),)}
"""What acts without being a user: the schedules, as operator."""
PROGRAM = "api-key"
"""Who asks when a program shows the workspace's key: it reads, and asks models."""
RESERVED = (*SERVICES, PROGRAM, "prefect", "mlflow", "gateway")
"""Names in ledgers that are no users."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what they may."""

    name: str
    grants: tuple[Grant, ...]

    def may(self, role: Role, model: str) -> bool:
        """Return whether they have a role for a model."""
        return allows(self.grants, role, model)


OWNER = (Grant(Role.ADMIN, EVERY),)
"""What whoever is let in may do in a store without users."""


CURRENT: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Who asks, for what lies too deep to be handed the request."""


def may_view(model: str) -> bool:
    """Return whether who asks may view a model; whoever is not known by now was let in."""
    who = CURRENT.get()
    return who is None or who.may(Role.VIEWER, model)


def require_viewer(model: str) -> None:
    """Refuse a model to who asks and may not view it.

    Raises:
        NotAllowed: They lack the role.
    """
    who = CURRENT.get()
    if who is not None and not may_view(model):
        raise NotAllowed(f"{who.name} may not ask {model}: that needs the role viewer of it")


class Directory:
    """Answers from the access log, read at most every `FRESH_S` seconds."""

    def __init__(self, log: AccessLog) -> None:
        self.log = log
        self._accounts: Accounts | None = None
        self._asked_at = self._read_at = -LASTS_S
        self._lock = threading.Lock()
        self._known = KnownTokens()
        self._refusals: dict[tuple[str, str, str], float] = {}

    @property
    def is_stale(self) -> bool:
        """Whether the store is to be asked again."""
        return time.monotonic() - self._asked_at >= FRESH_S

    def accounts(self) -> Accounts:
        """Return everybody.

        Raises:
            Tampered: The log was cut off or rewritten.
            Unavailable: The store has not answered for `LASTS_S` seconds.
        """
        with self._lock:
            if self.is_stale:
                self._asked_at = time.monotonic()
                try:
                    self._accounts, self._read_at = self.log.accounts(), self._asked_at
                except Unavailable:
                    lasted = self._asked_at - self._read_at
                    if self._accounts is None or (self._accounts.in_use and lasted > LASTS_S):
                        self._asked_at = -LASTS_S
                        raise
                except RequantError:
                    self._accounts, self._asked_at = None, -LASTS_S
                    raise
            assert self._accounts is not None  # noqa: S101  # raised above otherwise
            return self._accounts

    @property
    def in_use(self) -> bool:
        """Whether the store has users; raises as `accounts`."""
        return self.accounts().in_use

    def changed(self) -> None:
        """Ask the store again the next time."""
        self._asked_at = -LASTS_S

    def user_of(self, token: str) -> tuple[User, str] | None:
        """Return whose token this is, and its id; None for one that opens nothing."""
        accounts, token_id = self.accounts(), id_of(token)
        issued = accounts.tokens.get(token_id or "")
        if issued is None or not issued.is_valid(datetime.now(UTC)):
            return None
        user = accounts.users.get(issued.user)
        if user is None or not self._known.matches(token, issued.kept):
            return None
        return user, issued.token_id

    def knows(self, token: str) -> bool:
        """Return whether a token matched before, in this process."""
        issued = self.accounts().tokens.get(id_of(token) or "")
        return issued is not None and self._known.knows(token, issued.kept)

    def admits(self, session: Session) -> bool:
        """Return whether a session counts still: its user is there, its token neither ended."""
        accounts = self.accounts()
        if session.session_id in accounts.ended:
            return False
        if not accounts.in_use:
            return True
        user = accounts.users.get(session.subject)
        if user is None or session.opened < datetime.fromisoformat(user.since).timestamp():
            return False
        if session.by == BY_OIDC and time.time() - session.opened > OIDC_S:
            return False
        token = accounts.tokens.get(session.by)
        return token is None or token.is_valid(datetime.now(UTC))

    def caller(self, name: str) -> Caller:
        """Return what a proven name may; nothing where it is no user's any more."""
        return Caller(name, self._grants(self.accounts(), name))

    def require(self, name: str, role: Role, model: str, act: str) -> None:
        """Raise `NotAllowed` where a proven name lacks a role, and note that in the log."""
        if not self.caller(name).may(role, model):
            self.refuse(name, role, model, act)

    def refuse(self, name: str, role: Role, model: str, act: str) -> None:
        """Raise `NotAllowed`, and note in the log that somebody asked for what they may not."""
        self.note_refusal(name, role, model, act)
        where = "all models" if model == EVERY else model
        raise NotAllowed(
            f"{name} may not {act}: that needs the role {role} of {where}; ask an admin for it "
            "(`requant users list` names them)"
        )

    def note_refusal(self, name: str, role: Role, model: str, act: str) -> None:
        """Note that somebody asked for what they may not, once a minute."""
        last, now = self._refusals.get((name, act, model), -SAME_REFUSAL_S), time.monotonic()
        if now - last >= SAME_REFUSAL_S:
            self._refusals = {
                key: at for key, at in self._refusals.items() if now - at < SAME_REFUSAL_S
            } | {(name, act, model): now}
            noted = event(AccessKind.REFUSED, name, name, act=act, role=role.value, model=model)
            self.log.commit(lambda accounts: noted if accounts.in_use else None)

    def _grants(self, accounts: Accounts, name: str) -> tuple[Grant, ...]:
        if not accounts.in_use:
            return OWNER
        if name == PROGRAM:
            return (Grant(Role.VIEWER, EVERY),)
        user = accounts.users.get(name)
        return SERVICES.get(name, ()) if user is None else user.grants
