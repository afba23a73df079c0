"""Requests and responses that were logged apart, joined by their id."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from tasks.traffic.formats.documents import Document
from tasks.traffic.formats.raw import Again, Bad, Lone, Raw, failing
from tasks.traffic.formats.spill import spill

Side = Literal["request", "response"]
_SCHEMA = """
CREATE TABLE sides (
    id TEXT, side TEXT, digest BLOB, number INTEGER, excerpt TEXT, path BLOB, place INTEGER,
    value TEXT,  -- null once it was joined
    PRIMARY KEY (id, side)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Both sides of one exchange."""

    id: str
    number: int  # of the document that completed it
    excerpt: str  # of the request
    request: Mapping[str, Any]
    response: Mapping[str, Any]


class Joiner:
    """Sides in any order and distance, each kept on disk until the other comes."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add(
        self, side: Side, id: str, document: Document, value: Mapping[str, Any]
    ) -> Exchange | None:
        """Return the pair that this side completes, if any.

        Raises:
            Again: The same came before.
            Bad: The id was used with another content.
        """
        text = json.dumps(value, sort_keys=True)
        digest = sha256(text.encode()).digest()[:16]
        if (before := self._one("digest", id, side)) is not None:
            if before[0] == digest:
                raise Again
            raise Bad(f"another {side} has this id and other content")
        other = self._one("number, excerpt, value", id, _other(side))
        self._keep(id, side, digest, document, None if other else text)
        if other is None:
            return None
        self._database.execute(
            "UPDATE sides SET value = NULL WHERE id = ? AND side = ?", (id, _other(side))
        )
        partner = json.loads(other[2])
        if side == "response":
            return Exchange(id, document.number, other[1], partner, value)
        return Exchange(id, document.number, document.excerpt, value, partner)

    def alone(self) -> Iterator[Raw]:
        """Yield what nobody answered, and answers to nothing, in the order of the file."""
        rows = self._database.execute(
            "SELECT id, side, number, excerpt, path, "
            "place FROM sides WHERE value IS NOT NULL ORDER BY number"
        )
        for id, side, number, excerpt, path, place in rows:
            reason = (
                f"this {side} has no {_other(side)} with its id: import the files of both together"
            )
            yield failing(
                number, excerpt, Bad(reason), Lone(Path(os.fsdecode(path)), place, _mark(side, id))
            )

    def _one(self, columns: str, id: str, side: Side) -> tuple[Any, ...] | None:
        query = f"SELECT {columns} FROM sides WHERE id = ? AND side = ?"  # noqa: S608  # nosec B608  # the columns are ours
        row: tuple[Any, ...] | None = self._database.execute(query, (id, side)).fetchone()
        return row

    def _keep(
        self, id: str, side: Side, digest: bytes, document: Document, value: str | None
    ) -> None:
        excerpt = document.excerpt.encode(errors="replace").decode()
        row = (
            id,
            side,
            digest,
            document.number,
            excerpt,
            os.fsencode(document.path),
            document.place,
            value,
        )
        self._database.execute("INSERT INTO sides VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _mark(side: Side, id: str) -> str:
    return sha256(f"{side}:{id}".encode(errors="surrogatepass")).hexdigest()[:24]


def _other(side: Side) -> Side:
    return "response" if side == "request" else "request"


@contextmanager
def joining() -> Iterator[Joiner]:
    """Open a joiner whose memory is bounded by `spill.CACHE_KILOBYTES`."""
    with spill(_SCHEMA) as database:
        yield Joiner(database)
