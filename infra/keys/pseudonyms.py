"""Keys of pseudonyms: without one nobody can tell whose pseudonym is whose by trying names.

The newest key makes pseudonyms. Those before it are kept, so that what is stored under an older
pseudonym can still be found and forgotten, until they are dropped.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from infra.errors import BadInput

_BYTES = 32
_DIGITS = 16
MARK = "redacted-"
"""What every pseudonym begins with."""


class PseudonymKeys:
    """The keys in one file, a line of hexadecimal digits each, the newest first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keys(self) -> tuple[bytes, ...]:
        """Return them; one is made the first time.

        Raises:
            BadInput: The file is damaged.
        """
        if not self._path.exists():
            self._create()
        try:
            keys = tuple(bytes.fromhex(line) for line in self._path.read_text("ascii").split())
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        if not keys or any(len(key) != _BYTES for key in keys):
            raise self._damaged("it is cut short")
        return keys

    def replace(self, *, drop: bool) -> int:
        """Make pseudonyms by a new key; return how many older ones are still known.

        Args:
            drop: Forget the older keys: nothing then leads from a name to what is stored under an
                older pseudonym, not even to remove it.
        """
        older = () if drop else self.keys()
        self._write((secrets.token_bytes(_BYTES), *older))
        return len(older)

    @property
    def stamp(self) -> tuple[str, int]:
        """What changes when the keys do, for caches."""
        try:
            return str(self._path), self._path.stat().st_mtime_ns
        except FileNotFoundError:
            self.keys()
            return str(self._path), self._path.stat().st_mtime_ns

    def _create(self) -> None:
        """Link a finished file to its name, so that two first processes agree on one key."""
        partial = self._partial((secrets.token_bytes(_BYTES),))
        try:
            os.link(partial, self._path)
        except FileExistsError:
            return  # another process was first
        finally:
            partial.unlink()

    def _write(self, keys: tuple[bytes, ...]) -> None:
        self._partial(keys).replace(self._path)

    def _partial(self, keys: tuple[bytes, ...]) -> Path:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write("".join(f"{key.hex()}\n" for key in keys))
            file.flush()
            os.fsync(file.fileno())
        return partial

    def _damaged(self, how: str) -> BadInput:
        return BadInput(
            f"The keys of pseudonyms {self._path} cannot be read ({how}): restore the file from a "
            "backup, or `requant traffic rekey --drop` makes a new one."
        )


def pseudonym(name: str, key: bytes) -> str:
    """Return what stands for a name: 64 bits of HMAC-SHA-256 (RFC 2104)."""
    return f"{MARK}{hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:_DIGITS]}"


def unkeyed(name: str) -> str:
    """Return what stood for a name before pseudonyms had keys."""
    return f"{MARK}{hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]}"
