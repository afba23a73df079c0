"""Who may use the console: one token, a cookie that follows from it, and forms that act once.

Whoever holds the token may do everything. A form's id is signed for one purpose, so that no other site can post one
(CSRF), and is the idempotency key of the run it starts, so that posting it twice starts one run.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Access:
    """The token and what follows from it."""

    token: str

    @property
    def cookie(self) -> str:
        """Name of the cookie; cookies know no ports, so that two consoles need two names."""
        return f"requant_{self._derived('name')[:12]}"

    @property
    def session(self) -> str:
        """Value of the cookie; the token does not follow from it."""
        return self._derived("session")

    def admits(self, token: str | None) -> bool:
        """Whether this is the token, in constant time."""
        return token is not None and _same(token, self.token)

    def remembers(self, cookie: str | None) -> bool:
        """Whether this is the cookie's value, in constant time."""
        return cookie is not None and _same(cookie, self.session)

    def form_id(self, purpose: str) -> str:
        """A fresh id for one form; `purpose` names the action and what it acts on."""
        return self._signed(secrets.token_urlsafe(12), purpose)

    def made_form(self, form_id: str, purpose: str) -> bool:
        """Whether the console made this id for this purpose, in constant time."""
        return _same(form_id, self._signed(form_id.partition(".")[0], purpose))

    def _signed(self, once: str, purpose: str) -> str:
        return f"{once}.{self._derived(f'form {once} {purpose}')}"

    def _derived(self, what: str) -> str:
        return hmac.new(self.token.encode(), what.encode(), hashlib.sha256).hexdigest()


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
