"""Signed notes about who somebody is.

There are links to log in by, browser sessions, and orders that name their author.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any

from itsdangerous import BadData, URLSafeTimedSerializer

from infra.access.secret import WorkspaceSecret

LINK_S = 12 * 3600
"""Seconds for which a printed link opens a session."""
SESSION_S = 7 * 24 * 3600
"""Seconds for which a session lasts."""
BY_OIDC, OIDC_S = "oidc", 12 * 3600
"""What a session was opened by at an OpenID Connect provider, and for how many seconds it lasts.

What becomes of the identity there is not told here.
"""
ORDER_S = 24 * 3600
"""Seconds for which an order names its author.

It may wait for a free place, but not be taken up again some day.
"""


@dataclass(frozen=True, slots=True)
class Session:
    """What a browser holds: whose it is, and by what it was opened."""

    subject: str
    session_id: str  # by which it is ended
    by: str  # the id of a token, "link", or "oidc"
    opened: float  # seconds since 1970, UTC


@dataclass(frozen=True, slots=True)
class Sessions:
    """What a workspace's secret signs; each kind of note is worth nothing as another."""

    secret: WorkspaceSecret

    @property
    def cookie(self) -> str:
        """The cookie's name; cookies know no ports, so that two workspaces need two names."""
        return f"requant_{self.secret.workspace_id[:12]}"

    def link(self, subject: str) -> str:
        """Return a token that opens a session of this person within `LINK_S` seconds."""
        return self._signed("link", subject)

    def opened(self, subject: str, by: str = "link") -> Session:
        """Return a new session of this person, opened now."""
        return Session(subject, secrets.token_hex(8), by, time.time())

    def session(self, subject: str, by: str = "link") -> str:
        """Return a cookie's value for a new session of this person."""
        return self.value(self.opened(subject, by))

    def value(self, session: Session) -> str:
        """Return a session as a cookie holds it."""
        content = [session.subject, session.session_id, session.by, session.opened]
        return self._signed("session", content)

    def of_link(self, token: str | None) -> str | None:
        """Return whose link this is; None when it is forged, of another workspace or too old."""
        content = None if token is None else self._content("link", token, LINK_S)
        return content if isinstance(content, str) else None

    def of_session(self, cookie: str | None) -> Session | None:
        """Return a cookie's session; None when it is forged, of another workspace or too old."""
        content = None if cookie is None else self._content("session", cookie, SESSION_S)
        if not isinstance(content, list) or len(content) != 4:
            return None
        subject, session_id, by, opened = content
        return Session(str(subject), str(session_id), str(by), float(opened))

    def order(self, subject: str, what: str) -> str:
        """Sign that this person ordered `what`, which names one order and no other."""
        return self._signed("order", [subject, what])

    def of_order(self, note: str, what: str) -> str | None:
        """Return who signed the order `what`; None when nobody did."""
        content = self._content("order", note, ORDER_S)
        if not isinstance(content, list) or len(content) != 2 or content[1] != what:
            return None
        return str(content[0])

    def _signed(self, kind: str, content: Any) -> str:
        return str(self._serializer(kind).dumps(content))

    def _content(self, kind: str, token: str, age_s: int) -> Any:
        try:
            return self._serializer(kind).loads(token, max_age=age_s)
        except BadData:
            return None

    def _serializer(self, kind: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(
            self.secret.derived(f"sign {kind}"),
            salt=kind,
            signer_kwargs={"digest_method": hashlib.sha256},
        )
