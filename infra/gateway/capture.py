"""A sample of what is served, on its way to the traffic store.

Which requests are sampled follows from their ids alone, so that it is the same on every replica.
They wait in bounded memory, off the request's path; a thread hands them on at each interval. A
crash loses at most what came within one interval. What cannot be stored is tried again as it is, so
that a store that has some of it already gets nothing twice. What is dropped is counted, by reason.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

import xxhash

from infra.errors import RequantError
from infra.gateway.metrics import GatewayMetrics

T = TypeVar("T")
STORED, FULL, FAILED = "stored", "full", "failed"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedExchange:
    """One request and what became of it."""

    request_id: str
    time: datetime  # UTC
    latency_ms: float
    version: str
    context: dict[str, str]  # tenant, domain, language, label: as far as the caller said
    payload: object  # as the traffic store keeps it


def bytes_of(exchange: ServedExchange) -> int:
    """Return about how many bytes an exchange holds while it waits."""
    said = (exchange.request_id, *exchange.context.values())
    return _bytes(exchange.payload) + sum(map(len, said))


def _bytes(payload: object) -> int:
    if isinstance(payload, Mapping):
        return sum(map(_bytes, payload.values()))
    if isinstance(payload, str):
        return 4 * len(payload)  # at most, in Python and in UTF-8 alike
    return int(getattr(payload, "nbytes", 0))


class Capture(Generic[T]):
    """The sample of one model's requests."""

    def __init__(
        self,
        model: str,
        store: Callable[[Sequence[T]], int],
        metrics: GatewayMetrics,
        *,
        fraction: float = 0.1,
        most: int = 10_000,
        most_bytes: int = 256 << 20,
        size_of: Callable[[T], int] = lambda exchange: 0,
        interval_s: float = 10.0,
    ) -> None:
        """Make an empty sample.

        Args:
            model: Whose requests they are.
            store: Takes what was sampled, from a thread of its own, and returns how many it
                dropped, as they can never be stored; raises `RequantError` where later they may be.
            metrics: Where it is counted.
            fraction: Of the requests, 0 to 1.
            most: Sampled requests that wait; the next are dropped.
            most_bytes: Of all that wait together, likewise.
            size_of: Bytes of one.
            interval_s: Seconds between two calls of `store`.
        """
        self._model, self._store, self._metrics = model, store, metrics
        self._below, self._most, self._interval_s = int(fraction * 2**64), most, interval_s
        self._most_bytes, self._size_of = most_bytes, size_of
        self._waiting: list[T] = []
        self._unstored: list[T] = []  # what was handed on, and is tried again
        self._bytes = 0  # of both
        self._lock = threading.Lock()  # of the list
        self._storing = threading.Lock()  # one at a time
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"capture-{model}", daemon=True)

    def start(self) -> None:
        """Begin to hand on what is sampled."""
        self._thread.start()

    def samples(self, request_id: str) -> bool:
        """Return whether a request of this id is of the sample."""
        return xxhash.xxh3_64_intdigest(request_id.encode()) < self._below

    def keep(self, exchange: T) -> None:
        """Keep a request that `samples` chose until the next interval, if there is room."""
        size = self._size_of(exchange)
        with self._lock:
            count = len(self._unstored) + len(self._waiting)
            if count < self._most and self._bytes + size <= self._most_bytes:
                self._waiting.append(exchange)
                self._bytes += size
                return
        self._metrics.captured(self._model, FULL)

    def flush(self) -> None:
        """Hand on what waits; what cannot be stored now is tried again, before all else."""
        with self._storing:
            while batch := self._next():
                try:
                    dropped = self._store(batch)
                except RequantError as error:
                    _log.warning("%d requests of %s wait on: %s", len(batch), self._model, error)
                    return
                except Exception:  # it would fail for ever, and whatever comes behind it
                    _log.exception("%d sampled requests of %s are lost", len(batch), self._model)
                    dropped = len(batch)
                self._done(batch)
                for outcome, count in ((STORED, len(batch) - dropped), (FAILED, dropped)):
                    if count:
                        self._metrics.captured(self._model, outcome, count)

    def close(self) -> None:
        """Hand on the rest, and stop; what cannot be stored now is lost, and counted."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()
        with self._lock:
            lost = len(self._unstored) + len(self._waiting)
            self._waiting, self._unstored, self._bytes = [], [], 0
        if lost:
            _log.warning("%d sampled requests of %s are lost", lost, self._model)
            self._metrics.captured(self._model, FAILED, lost)

    def _next(self) -> Sequence[T]:
        with self._lock:
            if not self._unstored:
                self._unstored, self._waiting = self._waiting, []
            return self._unstored

    def _done(self, batch: Sequence[T]) -> None:
        size = sum(map(self._size_of, batch))
        with self._lock:
            self._unstored = []
            self._bytes -= size

    def _follow(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.flush()
