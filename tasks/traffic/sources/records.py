"""What became of every file of a source, in the object store, without its name and content.

intake/MODEL/SOURCE/taken/FILE-VERSION.json     read to its end, and all of it stored
intake/MODEL/SOURCE/failed/FILE-VERSION.json    cannot be read; tried again when it changes
intake/MODEL/SOURCE/waiting/FILE-VERSION.json   read, but holds requests without responses,
                                                or the reverse
intake/MODEL/SOURCE/last.json                   what the last intake did

FILE and VERSION are digests. A record is created after the requests are stored: the next intake
goes on with one that was killed, and stores nothing twice.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal

from infra.errors import AlreadyExists, NotFound
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.traffic.sources.places import SourceFile

VERSION = 1
State = Literal["taken", "failed", "waiting"]


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier reading of a file left behind."""

    documents: int = 0  # that were judged, from its beginning
    size: int = 0  # bytes
    lone: Mapping[str, str] = field(
        default_factory=dict
    )  # mark of a side that waits -> since when, ISO 8601
    rejects: tuple[str, ...] = ()  # keys of its records that were set aside


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What became of one version of a file."""

    time: str  # ISO 8601
    size: int  # bytes
    documents: int  # that were judged; 0 where the format does not count them
    files: int  # read together with it, whose figures these are
    accepted: int
    duplicates: int
    rejected: int
    rejects: tuple[str, ...]  # keys of what was set aside
    problem: str | None = None  # why it cannot be read
    lone: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION


class Records:
    """The records of one source, as they stood when they were opened."""

    def __init__(self, store: ObjectStore, model: str, source: str, rules: str) -> None:
        """List the records of a source.

        `rules` are all that a file's meaning depends on: under others it is read anew.
        """
        self._store, self._model, self._source, self._rules = store, model, source, rules
        self._states: dict[str, set[State]] = {}  # FILE-VERSION -> states
        self._versions: dict[str, list[str]] = {}  # FILE -> FILE-VERSION
        states: tuple[State, ...] = ("taken", "failed", "waiting")
        for state in states:
            for key in layout.FILE_RECORD.keys(store, model=model, source=source, state=state):
                stem = key.rpartition("/")[2].removesuffix(".json")
                self._states.setdefault(stem, set()).add(state)
                self._versions.setdefault(stem.partition("-")[0], []).append(stem)

    def state(self, file: SourceFile) -> State | None:
        """Return what became of this version of a file; None when it was not read yet."""
        states = self._states.get(self._stem(file), set())
        return next((state for state in ("taken", "failed", "waiting") if state in states), None)

    def earlier(self, file: SourceFile) -> Earlier:
        """Return what the last reading of the file left, in this version or one it grew from."""
        earlier_records = [
            self._read(state, stem)
            for stem in set(self._versions.get(_file_digest(file, self._rules), ()))
            for state in self._states[stem]
        ]
        records = sorted(
            (record for record in earlier_records if record is not None),
            key=lambda record: str(record["time"]),
        )
        if not records or records[-1]["size"] > file.size:
            return Earlier()
        last = records[-1]
        return Earlier(last["documents"], last["size"], last["lone"], tuple(last["rejects"]))

    def settle(self, file: SourceFile, record: FileRecord) -> None:
        """Record that a file is done with; another intake may have been first."""
        state: State = "taken" if record.problem is None else "failed"
        with contextlib.suppress(AlreadyExists):
            self._store.create(self._key(state, self._stem(file)), _dump(record))
        self._drop_others(file, state)

    def wait(self, file: SourceFile, record: FileRecord) -> None:
        """Record that a file was read, and holds sides that wait for their other."""
        self._store.put(self._key("waiting", self._stem(file)), _dump(record))
        self._drop_others(file, "waiting")

    def drop_waiting(self, present: Iterable[SourceFile]) -> int:
        """Forget files that waited and are gone.

        It gives how many, 0 where nothing is listed.
        """
        there = {_file_digest(file, self._rules) for file in present}
        waiting = [stem for stem, states in self._states.items() if states == {"waiting"}]
        gone = [stem for stem in waiting if there and stem.partition("-")[0] not in there]
        for stem in gone:
            self._store.delete(self._key("waiting", stem))
        return len(gone)

    def _drop_others(self, file: SourceFile, state: State) -> None:
        """Drop the records of other versions: a file has one, that of its last version."""
        for stem in set(self._versions.get(_file_digest(file, self._rules), ())):
            for recorded in self._states[stem]:
                if (stem, recorded) != (self._stem(file), state):
                    self._store.delete(self._key(recorded, stem))

    def _read(self, state: State, stem: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._store.get(self._key(state, stem))))
        except NotFound:  # another intake has settled it
            return None

    def _stem(self, file: SourceFile) -> str:
        return f"{_file_digest(file, self._rules)}-{_digest(file.version)}"

    def _key(self, state: State, stem: str) -> str:
        file, _, version = stem.partition("-")
        return layout.file_record(self._model, self._source, state, file, version)


def place_digest(rules: Iterable[object]) -> str:
    """Digest what a source's files are read by: its place, format and first time."""
    return _digest(json.dumps([str(rule) for rule in rules]))


def now_text(now: datetime) -> str:
    """Return a time as records write it."""
    return now.isoformat(timespec="seconds")


def _file_digest(file: SourceFile, rules: str) -> str:
    return sha256(rules.encode() + b"\0" + os.fsencode(file.name)).hexdigest()[:32]


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def _dump(record: FileRecord) -> bytes:
    return json.dumps(asdict(record), sort_keys=True).encode()
