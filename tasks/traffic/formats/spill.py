"""What must be remembered while a file streams by lies in a temporary SQLite file, not in memory."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE_KILOBYTES = 64_000
"""Of the database kept in memory; the rest is on the disk that holds temporary files, which needs about the space of
what waits: a response may lie a whole file behind its request."""


@contextmanager
def spill(schema: str) -> Iterator[sqlite3.Connection]:
    """A database with these tables that is gone afterwards; nothing in it outlives the import, so nothing is synced."""
    with tempfile.TemporaryDirectory(prefix="requant-import-") as folder:
        database = sqlite3.connect(Path(folder) / "spill.db", isolation_level=None)
        try:
            for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KILOBYTES}"):
                database.execute(f"PRAGMA {pragma}")
            database.executescript(schema)
            database.execute("BEGIN")
            yield database
        finally:
            database.close()
