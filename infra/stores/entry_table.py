"""Rows of verified log entries in an SQLite file: some of a million are found without reading all.

What the file holds follows from the logs. Where it is damaged, or of another format, it is made
anew.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from infra.errors import Unavailable

_FORMAT = 1
_PATIENCE_S = 30.0  # for another writer of the file
_SCHEMA = f"""
PRAGMA journal_mode = WAL;
PRAGMA user_version = {_FORMAT};
CREATE TABLE IF NOT EXISTS log (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, number INTEGER NOT NULL,
    digest TEXT NOT NULL, key TEXT, signature TEXT, stamped INTEGER NOT NULL, stamps TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS entry (
    log INTEGER NOT NULL, number INTEGER NOT NULL, time INTEGER NOT NULL, kind TEXT NOT NULL,
    actor TEXT NOT NULL, reason TEXT NOT NULL, version TEXT, release TEXT, digest TEXT NOT NULL,
    details TEXT, PRIMARY KEY (log, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_time ON entry (time, number);
CREATE INDEX IF NOT EXISTS entry_kind ON entry (kind, time, number);
CREATE INDEX IF NOT EXISTS entry_actor ON entry (actor, time, number);
CREATE INDEX IF NOT EXISTS entry_version ON entry (version, time, number);
"""


def _sql(*parts: str) -> str:
    """Return one question; no part of it is anybody's text: values are bound to its marks."""
    return " ".join(parts)


_COLUMNS = "number, time, kind, actor, reason, version, release, digest, details"
_NAME = "(SELECT name FROM log WHERE id = entry.log)"
_SELECT = _sql("SELECT", _NAME, ",", _COLUMNS, "FROM entry")
_NEWEST_FIRST = "ORDER BY time DESC, number DESC"


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One entry as it is found again."""

    number: int
    time: int  # microseconds since 1970, UTC
    kind: str
    actor: str
    reason: str
    version: str | None
    release: str | None
    digest: str
    details: str | None  # canonical JSON; None where the log alone holds them


@dataclass(frozen=True, slots=True)
class LogHead:
    """Up to where the rows of a log are known."""

    number: int  # of the newest entry
    digest: str
    key: str | None  # who signed it
    signature: str | None
    stamped: int  # that many entries, from the first, had the stamps below when they were verified
    stamps: str  # digest of them


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows are asked for; empty fields ask for all."""

    logs: Sequence[str]
    kind: str = ""
    actor: str = ""
    version: str = ""
    text: str = ""  # part of the reason, in small or large letters
    until: int | None = None  # microseconds since 1970


class EntryTable:
    """One file for the rows of all logs; every method raises `Unavailable`."""

    def __init__(self, path: Path) -> None:
        """Open the file at the first question."""
        self._path = path
        self._is_made = False

    def heads(self) -> dict[str, LogHead]:
        """Return log -> up to where its rows are known."""
        with self._open() as base:
            known = base.execute(
                "SELECT name, number, digest, key, signature, stamped, stamps FROM log"
            )
            return {str(name): LogHead(*head) for name, *head in known}

    def replace(self, log: str, head: LogHead, rows: Iterable[EntryRow]) -> None:
        """Keep these rows of a log and no others."""
        with self._open() as base, base:
            number = _id(base, log)
            base.execute("DELETE FROM entry WHERE log = ?", (number,))
            _write(base, number, head, rows)

    def append(self, log: str, head: LogHead, rows: Iterable[EntryRow]) -> None:
        """Keep more rows of a log."""
        with self._open() as base, base:
            _write(base, _id(base, log), head, rows)

    def forget(self, log: str) -> None:
        """Keep nothing of a log."""
        with self._open() as base, base:
            base.execute("DELETE FROM entry WHERE log = ?", (_id(base, log),))
            base.execute("DELETE FROM log WHERE name = ?", (log,))

    def count(self, wanted: RowFilter) -> int:
        """Return how many rows a filter lets through."""
        with self._open() as base:
            where, values = _where(base, wanted)
            question = _sql("SELECT COUNT(*) FROM entry", where)
            if wanted == RowFilter(wanted.logs):  # every row of these logs: a number each
                names, values = _marks(wanted.logs), [*wanted.logs]
                question = _sql("SELECT TOTAL(number) FROM log WHERE name IN", names)
            (count,) = base.execute(question, values).fetchone()
            return int(count)

    def page(self, wanted: RowFilter, offset: int, most: int) -> list[tuple[str, EntryRow]]:
        """Return so many (log, row) after `offset` others, newest first."""
        order = _order(wanted)
        with self._open() as base:
            where, values = _where(base, wanted)
            inner = _sql("(SELECT log, number FROM entry", where, order, "LIMIT ? OFFSET ?)")
            question = _sql(_SELECT, "WHERE (log, number) IN", inner, order)
            return [_named(row) for row in base.execute(question, (*values, most, offset))]

    def rows(self, wanted: RowFilter) -> Iterator[tuple[str, EntryRow]]:
        """Yield each (log, row), newest first, as the file stood at the first of them."""
        with self._open() as base:
            where, values = _where(base, wanted)
            question = _sql(_SELECT, where, _order(wanted))
            yield from map(_named, base.execute(question, values))

    def with_details(self, log: str, until: int | None = None) -> list[EntryRow]:
        """Return the rows of a log whose details are kept, oldest first."""
        of_log = "FROM entry WHERE log = (SELECT id FROM log WHERE name = ?)"
        order = "AND details IS NOT NULL AND time <= ? ORDER BY number"
        question = _sql("SELECT", _COLUMNS, of_log, order)
        with self._open() as base:
            latest = 2**62 if until is None else until
            return [EntryRow(*row) for row in base.execute(question, (log, latest))]

    def newest(self, wanted: RowFilter, kinds: Sequence[str]) -> dict[str, EntryRow]:
        """Return log -> its newest row of some kinds; only logs and moment of the filter count."""
        moment = RowFilter(wanted.logs, until=wanted.until)
        with self._open() as base:
            where, values = _where(base, moment)
            inner = _sql("SELECT log, MAX(number) FROM entry", where, "AND kind IN", _marks(kinds))
            question = _sql(_SELECT, "WHERE (log, number) IN (", inner, "GROUP BY log)")
            return dict(map(_named, base.execute(question, (*values, *kinds))))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            if not self._is_made:
                self._make()
                self._is_made = True
            with closing(self._connected()) as base:
                yield base
        except (sqlite3.Error, OSError) as error:
            self._is_made = False
            raise Unavailable(
                f"The index of ledgers at {self._path} does not answer ({error}): free space there "
                "if the disk is full, else remove the file, which is made anew."
            ) from error

    def _connected(self) -> sqlite3.Connection:
        base = sqlite3.connect(self._path, timeout=_PATIENCE_S)
        base.create_function("has", 2, _has, deterministic=True)
        return base

    def _make(self) -> None:
        """Make the file where it is missing, damaged or of another format."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(self._connected()) as base:
                (known,) = base.execute("PRAGMA user_version").fetchone()
                if known in (0, _FORMAT):
                    base.executescript(_SCHEMA)
                    return
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, full, read-only
                raise
        for end in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)
        with closing(self._connected()) as base:
            base.executescript(_SCHEMA)


def _id(base: sqlite3.Connection, log: str) -> int:
    new = "INSERT OR IGNORE INTO log VALUES (NULL, ?, 0, '', NULL, NULL, 0, '')"
    base.execute(new, (log,))
    (number,) = base.execute("SELECT id FROM log WHERE name = ?", (log,)).fetchone()
    return int(number)


def _write(base: sqlite3.Connection, number: int, head: LogHead, rows: Iterable[EntryRow]) -> None:
    written = ((number, *astuple(row)) for row in rows)
    base.executemany(_sql("INSERT OR REPLACE INTO entry VALUES", _marks(range(10))), written)
    fields = "number = ?, digest = ?, key = ?, signature = ?, stamped = ?, stamps = ?"
    base.execute(_sql("UPDATE log SET", fields, "WHERE id = ?"), (*astuple(head), number))


def _where(base: sqlite3.Connection, wanted: RowFilter) -> tuple[str, list[str | int]]:
    """Return the condition and its values; no value is part of the text."""
    parts, values = _of_logs(base, wanted.logs)
    for column in ("kind", "actor", "version"):
        if value := str(getattr(wanted, column)):
            parts.append(f"{column} = ?")
            values.append(value)
    if not wanted.text.isascii():
        parts.append("has(reason, ?)")
        values.append(wanted.text.casefold())
    elif wanted.text:  # which SQLite compares itself, many times as fast
        parts.append("reason LIKE ? ESCAPE '!'")
        literal = re.sub("[!%_]", r"!\g<0>", wanted.text)
        values.append(f"%{literal}%")
    if wanted.until is not None:
        parts.append("time <= ?")
        values.append(wanted.until)
    return f"WHERE {' AND '.join(parts)}", values


def _of_logs(base: sqlite3.Connection, logs: Sequence[str]) -> tuple[list[str], list[str | int]]:
    """Return what asks for the rows of some logs.

    Of one log they are found by the log, of many by what else is asked; of all, none is left out.
    """
    known = dict(base.execute("SELECT name, id FROM log"))
    chosen = [int(known[name]) for name in logs if name in known]
    if len(chosen) == len(known):
        return ["TRUE"], []
    column = "log" if len(chosen) == 1 else "+log"
    return [f"{column} IN {_marks(chosen)}"], [*chosen]


def _order(wanted: RowFilter) -> str:
    """Return the order of rows: within a log that of their numbers, else that of their times."""
    return "ORDER BY number DESC" if len(wanted.logs) == 1 else _NEWEST_FIRST


def _marks(values: Sequence[object]) -> str:
    """Return a list of marks for values that are bound to them."""
    return f"({', '.join('?' * len(values))})"


def _named(row: Sequence[Any]) -> tuple[str, EntryRow]:
    name, *columns = row
    return str(name), EntryRow(*columns)


def _has(reason: str, part: str) -> bool:
    return part in reason.casefold()
