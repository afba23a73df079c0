"""What a collection of weights removes, said before it looks who names them.

Whoever writes a graph looks here afterwards. Either the collection saw the graph, and its weights
stay, or the graph's writer sees what is going, waits for the end, and writes its weights again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from infra.errors import NotFound, Unavailable
from infra.stores import layout
from infra.stores.port import ObjectStore

LASTS = timedelta(minutes=30)
"""A collection removes nothing later than this after it said what goes: it may have been killed."""
_WAITS_S, _LOOKS_S = 60.0, 0.2


@contextmanager
def announced(store: ObjectStore, digests: Collection[str]) -> Iterator[float]:
    """Say that these weights go; yield the monotonic time at which their removal must stop."""
    said = {"digests": sorted(digests), "until": (datetime.now(UTC) + LASTS).isoformat()}
    end = time.monotonic() + LASTS.total_seconds() / 2  # what is sent then may arrive later
    store.put(layout.weights_going(), json.dumps(said).encode())
    try:
        yield end
    finally:
        store.put(layout.weights_going(), json.dumps({**said, "until": None}).encode())


def removed_of(store: ObjectStore, digests: Collection[str]) -> set[str]:
    """Return which of these weights the newest collection removes, once it is at its end.

    Raises:
        Unavailable: It is under way for long, or was killed: the sentence says when to try again.
    """
    end = time.monotonic() + _WAITS_S
    while True:
        try:
            said = json.loads(store.get(layout.weights_going()))
        except NotFound:
            return set()
        going = set(digests) & set(said["digests"])
        until = said["until"]
        if not going or until is None or datetime.now(UTC) > datetime.fromisoformat(until):
            return going
        if time.monotonic() > end:
            raise Unavailable(
                f"Weights of this graph are being removed by `requant gc`, which did not end in "
                f"{_WAITS_S:.0f} s: try again once it has, or after {until[:16]} UTC."
            )
        time.sleep(_LOOKS_S)
