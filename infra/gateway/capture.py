"""A sample of what is served, on its way to the traffic store.

Which requests are sampled follows from their ids alone, so that it is the same on every replica.
They wait in bounded memory, off the request's path; a thread hands them on at each interval. A
crash loses at most what came within one interval. What is dropped is counted, by reason.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Generic, TypeVar

import xxhash

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
    return _bytes(exchange.payload) + sum(map(len, exchange.context.values()))


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
        store: Callable[[Sequence[T]], object],
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
            store: Takes what was sampled, from a thread of its own.
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
        self._bytes = 0  # of what waits
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
            if len(self._waiting) < self._most and self._bytes + size <= self._most_bytes:
                self._waiting.append(exchange)
                self._bytes += size
                return
        self._metrics.captured(self._model, FULL)

    def flush(self) -> None:
        """Hand on what waits; what cannot be stored waits on, while there is room."""
        with self._storing:
            with self._lock:
                batch, self._waiting, self._bytes = self._waiting, [], 0
            if not batch:
                return
            try:
                self._store(batch)
            except Exception as error:  # whatever the store says, requests are answered
                _log.warning("%d requests of %s wait on: %s", len(batch), self._model, error)
                self._put_back(batch)
            else:
                self._metrics.captured(self._model, STORED, len(batch))

    def close(self) -> None:
        """Hand on the rest, and stop; what cannot be stored now is lost, and counted."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()
        with self._lock:
            lost, self._waiting, self._bytes = len(self._waiting), [], 0
        if lost:
            self._metrics.captured(self._model, FAILED, lost)

    def _put_back(self, batch: list[T]) -> None:
        with self._lock:
            room = max(0, self._most - len(self._waiting))
            left = self._most_bytes - self._bytes
            sizes = list(accumulate(map(self._size_of, batch[:room])))
            fit = bisect_right(sizes, left)
            self._waiting = batch[:fit] + self._waiting
            self._bytes += sizes[fit - 1] if fit else 0
        if len(batch) > fit:
            self._metrics.captured(self._model, FULL, len(batch) - fit)

    def _follow(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.flush()
