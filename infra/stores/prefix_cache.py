"""The verified beginning of an append-only log, kept in the workspace with its digest.

An entry counts as verified while its object's stamp is the one that it was verified under: an entry
that was written anew in the store is read and verified again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

from infra.canonical import sha256

_VERSION = 1


class PrefixCache:
    """Entries in the order of their numbers, each a JSON list, with the stamps of their objects."""

    def __init__(self, path: Path, log: str) -> None:
        """Keep the entries of one log, named by its address, in one file."""
        self._path = path
        self._log = log

    def read(self) -> tuple[Sequence[str], Sequence[Any]]:
        """Return stamps and entries; nothing where the file is not as it was written."""
        try:
            digest, _, text = self._path.read_bytes().partition(b"\n")
            if sha256(text) != digest.decode():
                return (), ()
            kept = json.loads(text)
            if (kept["version"], kept["log"]) != (_VERSION, self._log):
                return (), ()
            return kept["stamps"], kept["entries"]
        except (OSError, ValueError, KeyError, TypeError):
            return (), ()

    def write(self, stamps: Sequence[str], entries: Sequence[Any]) -> None:
        """Keep entries that were verified; a file that cannot be written is done without."""
        document: Mapping[str, object] = {
            "version": _VERSION,
            "log": self._log,
            "stamps": list(stamps),
            "entries": list(entries),
        }
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        partial = self._path.with_suffix(f".{token_hex(4)}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(sha256(text).encode() + b"\n" + text)
            partial.replace(self._path)
        except OSError:
            partial.unlink(missing_ok=True)
