"""The same hours of the weeks before, as a reference: Monday morning is no drift from Sunday night."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from heapq import nsmallest

from infra.canonical import sha256
from tasks.records import Request

WEEK = timedelta(days=7)


def weeks_before(end: datetime, weeks: int) -> list[datetime]:
    """Where the same window ended one week before, two weeks before, ..., newest first."""
    return [end - place * WEEK for place in range(1, weeks + 1)]


def same_hours(windows: Iterable[Iterable[Request]], size: int) -> tuple[Request, ...]:
    """At most `size` requests of these windows, in order of time; the same requests in any order give the same draw.

    The smallest hashes of the request ids: a draw that neither the clock nor the number of shards influences.
    """
    drawn = nsmallest(size, _distinct(windows), key=lambda request: sha256(request.request_id.encode()))
    return tuple(sorted(drawn, key=lambda request: (request.time, request.request_id)))


def _distinct(windows: Iterable[Iterable[Request]]) -> Iterator[Request]:
    seen: set[str] = set()
    for window in windows:
        for request in window:
            if request.request_id not in seen:
                seen.add(request.request_id)
                yield request
