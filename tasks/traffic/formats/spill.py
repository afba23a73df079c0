"""What must be remembered while a file streams by, in a temporary SQLite file, not in memory.

The file has no name from its first moment on: nothing of it is left, however the process ends.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import Unavailable

CACHE_KILOBYTES = 64_000
"""Kilobytes of the database that are kept in memory.

The rest is on the disk that holds temporary files, which needs about the space of what waits: a
response may lie a whole file behind its request.
"""


@contextmanager
def spill(schema: str) -> Iterator[sqlite3.Connection]:
    """Open a database with these tables that is gone afterwards.

    Nothing in it outlives the import, so nothing is synced.
    """
    database = sqlite3.connect("", isolation_level=None)  # SQLite's own unnamed file
    try:
        for pragma in (
            "temp_store=FILE",
            "journal_mode=OFF",
            "synchronous=OFF",
            f"cache_size=-{CACHE_KILOBYTES}",
        ):
            database.execute(f"PRAGMA {pragma}")
        database.executescript(schema)
        database.execute("BEGIN")
        yield database
    except sqlite3.Error as exc:
        raise Unavailable(
            f"the temporary folder {tempfile.gettempdir()} could not hold what waits during "
            "the import "
            f"({exc}): free some space there, or point TMPDIR at another disk; "
            "what was stored before stays, and "
            "importing the file again stores nothing twice"
        ) from exc
    finally:
        database.close()
