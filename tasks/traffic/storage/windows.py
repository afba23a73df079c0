"""The traffic of the last hours, read back one part at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks.records import Request
from tasks.traffic.storage.parts import hour_of, read_part
from tasks.traffic.storage.scan import parts_between, scan_parts

CLOCK_SKEW = timedelta(hours=1)
"""A later time is a broken clock: one such request would move every window into the future."""


@dataclass(frozen=True, slots=True)
class StoredRequests:
    """The requests of some parts within (start, end].

    Each iteration reads them anew, one part in memory at a time.
    """

    store: ObjectStore
    keys: tuple[str, ...]
    start: datetime
    end: datetime

    def __iter__(self) -> Iterator[Request]:
        """Yield the requests in the order of their hours.

        Raises:
            NotFound: For a part that was deleted between listing and reading.
            Tampered: For a part that is not what was written.
            BadInput: For a part that cannot be read.
        """
        for key in self.keys:
            for request in read_part(self.store, key):
                if self.start < request.time <= self.end:
                    yield request


@dataclass(frozen=True, slots=True)
class TrafficWindow:
    """The traffic of the last hours.

    `start` and `end` are None when the model has no traffic at all.
    """

    requests: Iterable[Request]  # may be iterated more than once
    start: datetime | None  # exclusive
    end: datetime | None  # inclusive


def read_window(
    store: ObjectStore,
    model: str,
    *,
    hours: int,
    until: datetime | None = None,
    now: datetime | None = None,
) -> TrafficWindow:
    """Return the traffic of `hours` up to `until`, or up to the newest request.

    Only parts of those hours are read. With `until`, only the days that the window meets are
    listed, however long the model has been served.
    A request later than `now` and an hour, written by a host with a wrong clock, is not the newest.
    """
    end = until or _newest(store, model, (now or datetime.now(UTC)) + CLOCK_SKEW)
    if end is None:
        return TrafficWindow((), None, None)
    end = end.astimezone(UTC)
    start = end - timedelta(hours=hours)
    keys = tuple(parts_between(store, model, start, end))
    if not keys and next(parts_between(store, model, None, None), None) is None:
        return TrafficWindow((), None, None)
    return TrafficWindow(StoredRequests(store, keys, start, end), start, end)


def _newest(store: ObjectStore, model: str, latest: datetime) -> datetime | None:
    """Return the time of the newest believable request, trying hours from the last one back."""
    parts = [
        (hour, key)
        for key in store.list(layout.TRAFFIC.prefix(model=model))
        if (hour := hour_of(key)) is not None
    ]
    for hour in sorted({hour for hour, _ in parts if hour <= latest}, reverse=True):
        keys = [key for at, key in parts if at == hour]
        times: list[datetime] = [
            time
            for batch in scan_parts(store, keys, ("time",), verify=True)
            for time in batch.column("time").to_pylist()
        ]
        if believable := [time for time in times if time <= latest]:
            return max(believable)
    return None
