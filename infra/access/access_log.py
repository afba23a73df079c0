"""The access log of a store, and how far it was known here: what was cut off is noticed.

Accounts decide who may act, so that a store's writer who deletes the newest entries must not bring
a revoked token back, or do away with all users. The number and digest of the newest entry that was
ever read are kept in the workspace.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from infra.access.accounts import Accounts, accounts_of
from infra.canonical import Json
from infra.chain import Chain, Link
from infra.errors import AlreadyExists, Tampered, Unavailable

_RACES = 50
Decide = Callable[[Accounts], Mapping[str, Json] | None]
"""Given the accounts, the entry to append; None when there is nothing left to do."""


class AccessLog:
    """Reads and appends; one may be shared by threads."""

    def __init__(self, chain: Chain, mark: Path) -> None:
        """Open it; `mark` is the file that says how far the log was known."""
        self._chain, self._mark = chain, mark
        self._lock = threading.Lock()
        self._read = 0
        self._accounts = Accounts()

    def accounts(self) -> Accounts:
        """Return everybody as of now; raises `Tampered`, `Unavailable`."""
        with self._lock:
            return self._current()[0]

    def entries(self) -> tuple[Link, ...]:
        """Return every entry, oldest first; raises `Tampered`, `Unavailable`."""
        with self._lock:
            return self._current()[1]

    def commit(self, decide: Decide) -> Accounts:
        """Append what `decide` answers; a lost race decides again, on what the log says then."""
        with self._lock:
            for _ in range(_RACES):
                accounts, links = self._current()
                body = decide(accounts)
                if body is None:
                    return accounts
                try:
                    self._chain.append(body, expect=len(links))
                except AlreadyExists:
                    continue
                return self._current()[0]
        raise Unavailable(f"The access log lost {_RACES} races in a row: retry.")

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the log, a sentence each, everything read anew."""
        yield from self._chain.faults()
        try:
            self.accounts()
        except Tampered as error:
            yield str(error)

    def _current(self) -> tuple[Accounts, tuple[Link, ...]]:
        links = self._chain.read()
        if len(links) != self._read or not self._read:
            self._require_known(links)
            self._accounts = accounts_of(links[self._read :], self._accounts)
            self._read = len(links)
            self._note(links)
        return self._accounts, links

    def _require_known(self, links: tuple[Link, ...]) -> None:
        number, digest = self._noted()
        if number > len(links) or (number and links[number - 1].digest != digest):
            raise Tampered(
                f"The access log ends at entry {len(links)} or was rewritten, and its entry "
                f"{number} was known here: restore it from a backup of the store; until then "
                "nobody is let in."
            )

    def _noted(self) -> tuple[int, str]:
        try:
            noted = json.loads(self._mark.read_text(encoding="ascii"))
            return int(noted["number"]), str(noted["digest"])
        except FileNotFoundError:
            return 0, ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Tampered(
                f"The file {self._mark} says how far the access log was known, and cannot be read "
                f"({error}): restore it, or delete it once `requant audit verify` finds nothing."
            ) from error

    def _note(self, links: tuple[Link, ...]) -> None:
        if not links:
            return
        self._mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._mark.with_suffix(f".{threading.get_ident()}")
        noted = {"version": 1, "number": len(links), "digest": links[-1].digest}
        partial.write_text(json.dumps(noted), encoding="ascii")
        partial.replace(self._mark)
