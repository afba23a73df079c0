"""The same hours of the weeks before, as a reference: Monday is no drift from Sunday night."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from tasks.payloads import fingerprint
from tasks.profiles.reservoir import Reservoir
from tasks.records import Request

WEEK = timedelta(days=7)


def weeks_before(end: datetime, weeks: int) -> list[datetime]:
    """Return where the same window ended one week before, two weeks before, ..., newest first."""
    return [end - place * WEEK for place in range(1, weeks + 1)]


def same_hours(windows: Iterable[Iterable[Request]], size: int) -> tuple[Request, ...]:
    """Draw at most `size` requests of these windows, in order of time.

    Bottom-k by hashes of the request ids: the same requests in any order, and in any number of
    shards, give the same draw. `2 * size` requests are held at most, however many the weeks had.
    """
    drawn = Reservoir[Request](size, order=_first)
    for window in windows:
        for request in window:
            drawn.offer(request.request_id, request)
    return tuple(sorted(drawn.items(), key=lambda request: (request.time, request.request_id)))


def _first(request: Request) -> tuple[str, ...]:
    """Return which of several deliveries of one request is kept."""
    return request.time.isoformat(), fingerprint(request.payload), request.label or ""
