"""What one run opens: each thing once, shared by all of its steps, and let go when the run ends.

A step of a flow takes names and digests, and opens what they name. Within a run, the second step
finds what the first one opened. Kept is what is immutable, because its key names its content. Kept
is also what a run stands on from its beginning to its end: which registration of a model is in use.

A thread or a worker that a run starts is outside of its scope, unless it copies the context. There,
and wherever no run is, everything is opened anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, cast

from infra.stores.port import ObjectStore

T = TypeVar("T")
MOST_BYTES = 64 * 2**20
"""What a run keeps of the objects that it read; larger ones are read wherever they are needed."""


class Opened:
    """Values by kind and name; whoever asks for a value that is being opened waits for it."""

    def __init__(self) -> None:
        self._values: dict[Hashable, object] = {}
        self._objects: dict[tuple[str, str], bytes] = {}
        self._size = 0
        self._lock = threading.RLock()  # opening one value may open another

    def once(self, name: Hashable, open_it: Callable[[], T]) -> T:
        """Return the value of that name, opened by the first who asks; a failure is not kept."""
        with self._lock:
            if name not in self._values:
                self._values[name] = open_it()
            return cast(T, self._values[name])

    def read(self, store: ObjectStore, key: str) -> bytes:
        """Return an object's bytes, kept while all of them fit into `MOST_BYTES`."""
        with self._lock:
            data = self._objects.get((store.url, key))
            if data is None:
                data = store.get(key)
                if self._size + len(data) <= MOST_BYTES:
                    self._objects[store.url, key] = data
                    self._size += len(data)
            return data


_opened: ContextVar[Opened | None] = ContextVar("opened", default=None)


@contextmanager
def run_scope() -> Iterator[None]:
    """Keep what is opened inside the block until its end; a run inside another shares its scope."""
    if _opened.get() is not None:
        yield
        return
    token = _opened.set(Opened())
    try:
        yield
    finally:
        _opened.reset(token)


def once(kind: str, *name: Hashable, open_it: Callable[[], T]) -> T:
    """Open a thing once in a run; outside of a run, each time.

    Args:
        kind: What it is: "release".
        name: What tells it from others of its kind: the store's address, and a digest.
        open_it: Opens it; whatever it raises passes through, and the next who asks tries again.

    Returns:
        The thing; nobody may change it.
    """
    opened = _opened.get()
    return open_it() if opened is None else opened.once((kind, *name), open_it)


def read_once(store: ObjectStore, key: str) -> bytes:
    """Read an immutable object once in a run; outside of a run, each time; raises `NotFound`."""
    opened = _opened.get()
    return store.get(key) if opened is None else opened.read(store, key)
