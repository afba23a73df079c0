"""The secret of a workspace, from which every key, session and signed note follows."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import BadInput

_BYTES = 32
USER = "requant"
"""The user name of basic authentication; the password is the key."""


@dataclass(frozen=True, slots=True)
class WorkspaceSecret:
    """The secret itself; only what is derived from it ever leaves the process."""

    value: bytes = field(repr=False)

    @property
    def key(self) -> str:
        """Return what programs show as bearer or as basic password: 64 hexadecimal digits."""
        return self.derived("program key")

    @property
    def workspace_id(self) -> str:
        """Return a name of the workspace that is no secret: 16 hexadecimal digits."""
        return self.derived("workspace id")[:16]

    @property
    def basic(self) -> str:
        """Return `user:password` for servers and clients that know basic authentication."""
        return f"{USER}:{self.key}"

    def derived(self, purpose: str) -> str:
        """Return a key for one purpose (HMAC-SHA-256, RFC 2104); no other follows from it."""
        return hmac.new(self.value, purpose.encode(), hashlib.sha256).hexdigest()


def open_secret(path: Path) -> WorkspaceSecret:
    """Read a workspace's secret, or make it the first time.

    Raises:
        BadInput: The secret is damaged.
    """
    if not path.exists():
        _create(path)
    try:
        value = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise BadInput(
            f"the workspace's secret {path} cannot be read ({error}): delete it to have one made"
        ) from error
    if len(value) != _BYTES:
        raise BadInput(f"the workspace's secret {path} is cut short: delete it to have one made")
    return WorkspaceSecret(value)


def _create(path: Path) -> None:
    """Link a finished file to its name, so that two first commands agree on one secret."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)
    except FileExistsError:
        return  # another process was first
    finally:
        partial.unlink(missing_ok=True)
