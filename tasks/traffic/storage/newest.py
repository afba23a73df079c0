"""When the newest stored request was made, without reading a request."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache

from infra.stores.port import ObjectStore
from tasks.traffic.storage.parts import hour_of
from tasks.traffic.storage.scan import parts_between, scan_parts
from tasks.traffic.storage.windows import CLOCK_SKEW

RECENT = timedelta(days=2)
"""Listed first: only a model whose traffic has stopped has all of its parts listed."""


def newest_time(store: ObjectStore, model: str, now: datetime) -> datetime | None:
    """Return the time of the newest request that is not later than `now` and an hour.

    It is None without any. Only names, and the times of the newest hour's parts, are read. Raises
    `BadInput`, `NotFound` and `Unavailable`.
    """
    latest = now + CLOCK_SKEW
    for start in (latest - RECENT, None):
        for keys in _by_hour(store, model, start, latest):
            believable = [time for key in keys if (time := _newest_in(store, key, latest))]
            if believable:
                return max(believable)
    return None


def _by_hour(
    store: ObjectStore, model: str, start: datetime | None, end: datetime
) -> Iterator[tuple[str, ...]]:
    """Yield the keys of the parts of one hour after the other, the newest first."""
    hours: dict[datetime, list[str]] = {}
    for key in parts_between(store, model, start, end):
        hour = hour_of(key)
        if hour is not None:
            hours.setdefault(hour, []).append(key)
    return (tuple(hours[hour]) for hour in sorted(hours, reverse=True))


def _newest_in(store: ObjectStore, key: str, latest: datetime) -> datetime | None:
    """Return the newest believable time of a part."""
    newest = _last(store, key)  # type: ignore[arg-type]  # a store is hashed by what it is
    if newest is None or newest <= latest:
        return newest
    return max((time for time in _times(store, key) if time <= latest), default=None)


@lru_cache(maxsize=4096)
def _last(store: ObjectStore, key: str) -> datetime | None:
    """Return the latest time of a part.

    It is cached, because a part never changes: its name holds the digest of its content.
    """
    return max(_times(store, key), default=None)


def _times(store: ObjectStore, key: str) -> Iterator[datetime]:
    for batch in scan_parts(store, (key,), ("time",)):
        yield from batch.column("time").to_pylist()
