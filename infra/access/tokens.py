"""Tokens that people and programs show: made once, kept as an Argon2id hash alone.

A token is `rqt_ID_SECRET`. The id finds the hash; the secret has 256 random bits.
"""

from __future__ import annotations

import hashlib
import secrets

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

PREFIX = "rqt"
_ID_BYTES, _SECRET_BYTES = 6, 32
# Of Argon2id (RFC 9106), as OWASP's cheat sheet on password storage names them.
_MEMORY_KIB, _ITERATIONS, _LANES = 19 * 1024, 2, 1
_MOST_KNOWN = 1024


def new_token() -> tuple[str, str, str]:
    """Return the id, the token as its owner shows it, and the hash that is kept of it."""
    token_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES)
    kept = Argon2id(
        salt=secrets.token_bytes(16),
        length=32,
        iterations=_ITERATIONS,
        lanes=_LANES,
        memory_cost=_MEMORY_KIB,
    ).derive_phc_encoded(secret.encode())
    return token_id, f"{PREFIX}_{token_id}_{secret}", kept


def id_of(token: str) -> str | None:
    """Return the id in a token; None for what is no token of ours."""
    parts = token.split("_")
    ours = len(parts) == 3 and parts[0] == PREFIX and len(parts[2]) == 2 * _SECRET_BYTES
    return parts[1] if ours else None


class KnownTokens:
    """Verifies tokens; one that matched is known by a digest, as the hash takes 30 ms and more."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def knows(self, token: str, kept: str) -> bool:
        """Return whether the two matched before."""
        return _digest(token, kept) in self._known

    def matches(self, token: str, kept: str) -> bool:
        """Return whether a hash was made of this token."""
        if self.knows(token, kept):
            return True
        try:
            Argon2id.verify_phc_encoded(token.split("_")[-1].encode(), kept)
        except (InvalidKey, ValueError):
            return False
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known.add(_digest(token, kept))
        return True


def _digest(token: str, kept: str) -> str:
    return hashlib.sha256(f"{kept} {token}".encode()).hexdigest()
