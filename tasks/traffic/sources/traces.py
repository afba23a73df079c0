"""The new traces of an MLflow experiment into the object store.

`intake/MODEL/SOURCE/traces-EXPERIMENT.json` says up to which time the experiment was read, and
digests of the traces since OVERLAP before: a trace is logged when its request ends, so that later
ones may have begun before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256

from infra.errors import NotFound, RequantError
from infra.registry.traces import TracePage, TraceStamp
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.traffic.imports import judge_traces
from tasks.traffic.intake import Inlet, Tally, ingestion
from tasks.traffic.sources.files import Reading
from tasks.traffic.sources.last import SourceIntake, summary

VERSION = 1
OVERLAP = timedelta(hours=1)
"""A trace that is logged later than this after others of its time is not found again."""
PATIENCE = timedelta(days=1)
"""How long a trace may be in the making before it is taken for broken."""

Pages = Callable[[int], Iterator[TracePage]]
"""Time in milliseconds since 1970 -> the traces since then, oldest first."""


@dataclass(slots=True)
class _Progress:
    """How far an experiment was read."""

    until_ms: int = 0  # the latest time of a trace that was taken
    seen: dict[str, int] = field(
        default_factory=dict
    )  # digest of an id -> when it began, milliseconds
    open_ms: int | None = None  # when the oldest trace began that was in the making

    def since(self) -> int:
        """Return where to begin; 0 reads everything."""
        begin = max(0, self.until_ms - _milliseconds(OVERLAP))
        return begin if self.open_ms is None else min(begin, self.open_ms)

    def take(self, stamp: TraceStamp, now_ms: int) -> None:
        """Note that a trace was taken; one of a clock that is ahead moves nothing."""
        if stamp.began_ms <= now_ms:
            self.until_ms = max(self.until_ms, stamp.began_ms)
        self.seen[_digest(stamp.trace_id)] = stamp.began_ms

    def dump(self) -> bytes:
        """Return the progress as it is stored, without what `since` excludes."""
        since = self.since()
        recent = {digest: began for digest, began in self.seen.items() if began >= since}
        document = {
            "version": VERSION,
            "until_ms": self.until_ms,
            "seen": recent,
            "open_ms": self.open_ms,
        }
        return json.dumps(document, sort_keys=True).encode()


def take_traces(
    store: ObjectStore, experiment: str, pages: Pages, reading: Reading, now: datetime
) -> SourceIntake:
    """Read what is new by pages; what was taken before an error is stored and told."""
    key = layout.trace_progress(reading.model, reading.source, _digest(experiment))
    error, reader = None, _Reader(reading, now)
    try:
        progress = _read(store, key)
        with ingestion(store, reading.model) as inlet:
            for page in pages(progress.since()):
                reader.take(page, inlet, progress)
                inlet.flush()
                progress.open_ms = _least(progress.open_ms, reader.open_ms)
                store.put(key, progress.dump())
        progress.open_ms = reader.open_ms
        store.put(key, progress.dump())
    except RequantError as problem:
        error = str(problem)
    skipped = {"in the making": reader.left_open}
    place = f"mlflow:{experiment}"
    return summary(
        reading.source, place, now, reader.total, files=reader.taken, left=skipped, error=error
    )


class _Reader:
    """Pages of traces on their way to the store."""

    def __init__(self, reading: Reading, now: datetime) -> None:
        self._reading, self._now = reading, now
        self._now_ms = round(now.timestamp() * 1000)
        self.total, self.taken, self.left_open = Tally(), 0, 0
        self.open_ms: int | None = None  # when the oldest trace began that is in the making

    def take(self, page: TracePage, inlet: Inlet, progress: _Progress) -> None:
        """Take the traces of a page that are new and have ended."""
        new = (stamp for stamp in page.stamps if _digest(stamp.trace_id) not in progress.seen)
        ready = {stamp.trace_id: stamp for stamp in new if not self._is_open(stamp)}
        documents = page.documents(ready.keys()) if ready else {}
        reading = self._reading
        records = judge_traces(
            documents.values(),
            task=reading.task,
            shape=reading.shape,
            now=self._now,
            refusal=reading.refusal,
        )
        self.total.add(inlet.take(records, reading.source))
        self.taken += len(documents)
        for trace_id in documents:  # a late trace may have moved another to the next page since
            progress.take(ready[trace_id], self._now_ms)

    def _is_open(self, stamp: TraceStamp) -> bool:
        if stamp.ended or self._now_ms - stamp.began_ms >= _milliseconds(PATIENCE):
            return False
        self.open_ms = _least(self.open_ms, stamp.began_ms)
        self.left_open += 1
        return True


def _least(first: int | None, other: int | None) -> int | None:
    return min((time for time in (first, other) if time is not None), default=None)


def _read(store: ObjectStore, key: str) -> _Progress:
    try:
        document = json.loads(store.get(key))
    except NotFound:
        return _Progress()
    return _Progress(document["until_ms"], document["seen"], document["open_ms"])


def _digest(name: str) -> str:
    return sha256(name.encode()).hexdigest()[:24]


def _milliseconds(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
