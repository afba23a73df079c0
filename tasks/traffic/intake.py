"""The way of a stream of records into the object store.

Every request is stored once, in bounded memory, and nothing is lost.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256

from infra.stores.port import ObjectStore
from tasks.payloads import describe, fingerprint
from tasks.records import Request
from tasks.traffic.formats.raw import RAW_KEPT
from tasks.traffic.formats.spill import spill
from tasks.traffic.imports import Accepted, Duplicate, Taken
from tasks.traffic.masking import redacted
from tasks.traffic.rejects import Reject, identity, write_rejects
from tasks.traffic.storage.parts import hour_prefix, read_part, weight_of, write_redacted

BUFFER_ROWS = 20_000
BUFFER_BYTES = 64_000_000
"""Requests buffered before they are written.

These are two full parts when a file is in the order of time, which most are.
"""
BUFFER_REJECTS = 5_000

_SCHEMA = "CREATE TABLE seen (id TEXT, payload BLOB, row BLOB, PRIMARY KEY (id, row)) WITHOUT ROWID"


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a stream."""

    accepted: int
    duplicates: int  # stored already, or twice in the stream
    rejected: int
    reasons: Mapping[str, int]  # reason -> records
    rejects: tuple[str, ...]  # keys of what was set aside
    parts: tuple[str, ...]  # keys of what was written


@dataclass
class Tally:
    """What became of the records of one stream."""

    accepted: int = 0
    duplicates: int = 0  # stored or set aside already, or twice in the stream
    reasons: Counter[str] = field(default_factory=Counter)  # reason -> records
    rejects: list[str] = field(default_factory=list)  # keys of what was set aside

    def add(self, other: Tally) -> None:
        """Count another stream's records, too."""
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.reasons += other.reasons
        self.rejects += other.rejects


def ingest(store: ObjectStore, model: str, records: Iterable[Taken], *, source: str) -> Ingested:
    """Redact and store requests, and set the others aside under the source's name.

    A request whose id and content are stored in the same hour, or came before in the stream, is a
    duplicate. The same input with other facts (a label that came later) is stored beside it.
    Another input under the same id is rejected. When the stream breaks off, what came before is
    stored, and its error is raised.
    """
    with ingestion(store, model) as inlet:
        tally = inlet.take(records, source)
    return Ingested(
        tally.accepted,
        tally.duplicates,
        sum(tally.reasons.values()),
        dict(tally.reasons),
        tuple(tally.rejects),
        tuple(inlet.parts),
    )


@contextmanager
def ingestion(store: ObjectStore, model: str) -> Iterator[Inlet]:
    """Take several streams one after another; at the end, also a bad one, store what was taken."""
    with spill(_SCHEMA) as database:
        inlet = Inlet(store, model, _Seen(store, model, database))
        try:
            yield inlet
        finally:
            inlet.flush()


class Inlet:
    """Requests and rejects on their way to the store."""

    def __init__(self, store: ObjectStore, model: str, earlier: _Seen) -> None:
        self._store, self._model, self._seen = store, model, earlier
        self._requests: list[Request] = []
        self._rejects: list[Reject] = []
        self._size = 0
        self._source, self._aside, self._tally = "", frozenset[bytes](), Tally()
        self.parts: list[str] = []

    def take(self, records: Iterable[Taken], source: str, aside: Collection[bytes] = ()) -> Tally:
        """Take one stream; its requests are all stored after `flush`, its rejects at once.

        `aside` are the `rejects.identity` of records that were set aside by an earlier reading.
        """
        self._source, self._aside, self._tally = source, frozenset(aside), Tally()
        try:
            for record in records:
                self._record(record)
        finally:
            self._flush_rejects()
        return self._tally

    def flush(self) -> None:
        """Store every request that was taken."""
        if self._requests:
            self.parts += write_redacted(self._store, self._model, self._requests)
        self._requests, self._size = [], 0

    def _record(self, record: Taken) -> None:
        if isinstance(record, Accepted):
            self._request(record.line_or_row, redacted(record.request))
        elif isinstance(record, Duplicate):
            self._tally.duplicates += 1
        else:
            self._reject(record)

    def _request(self, number: int, request: Request) -> None:
        verdict = self._seen.add(request)
        if verdict == "again":
            self._tally.duplicates += 1
        elif verdict == "conflict":
            self._reject(
                Reject(number, "request_id was seen before with another input", _excerpt(request))
            )
        else:
            self._tally.accepted += 1
            self._requests.append(request)
            self._size += weight_of(request)
            if len(self._requests) >= BUFFER_ROWS or self._size >= BUFFER_BYTES:
                self.flush()

    def _reject(self, reject: Reject) -> None:
        if self._aside and identity(reject) in self._aside:
            self._tally.duplicates += 1
            return
        self._tally.reasons[reject.reason] += 1
        self._rejects.append(reject)
        if len(self._rejects) >= BUFFER_REJECTS:
            self._flush_rejects()

    def _flush_rejects(self) -> None:
        if self._rejects:
            self._tally.rejects.append(
                write_rejects(self._store, self._model, self._rejects, self._source)
            )
        self._rejects = []


class _Seen:
    """Ids and digests of what is stored in each hour that the stream touches, and of the stream."""

    def __init__(self, store: ObjectStore, model: str, database: sqlite3.Connection) -> None:
        self._store, self._model, self._database = store, model, database
        self._hours: set[str] = set()

    def add(self, request: Request) -> str:
        """Return "new", "again" or "conflict"."""
        self._recall(hour_prefix(self._model, request.time))
        payload, row = _digests(request)
        earlier = self._database.execute(
            "SELECT payload, row FROM seen WHERE id = ?", (request.request_id,)
        ).fetchall()
        if any(before == row for _, before in earlier):
            return "again"
        if any(before != payload for before, _ in earlier):
            return "conflict"
        self._database.execute(
            "INSERT INTO seen VALUES (?, ?, ?)", (request.request_id, payload, row)
        )
        return "new"

    def _recall(self, prefix: str) -> None:
        """Read the stored parts of an hour, once an import, when its first request comes."""
        if prefix in self._hours:
            return
        self._hours.add(prefix)
        for key in self._store.list(prefix):
            rows = (
                (request.request_id, *_digests(request)) for request in read_part(self._store, key)
            )
            self._database.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", rows)


def _digests(request: Request) -> tuple[bytes, bytes]:
    """Return the digest of the input alone, and that of everything."""
    payload = bytes.fromhex(fingerprint(request.payload))[:16]
    facts = (
        request.time.isoformat(),
        request.tenant,
        request.domain,
        request.language,
        request.latency_ms,
        request.model_version,
        request.decision,
        request.label,
    )
    return payload, sha256(payload + repr(facts).encode()).digest()[:16]


def _excerpt(request: Request) -> str:
    payload = request.payload
    text = payload if isinstance(payload, str) else f"tensor of {describe(payload)}"
    return json.dumps({"request_id": request.request_id, "input": text}, ensure_ascii=False)[
        :RAW_KEPT
    ]
