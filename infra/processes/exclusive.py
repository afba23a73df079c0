"""One process at a time on a host: a lock that the kernel lets go of when its holder dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Wait until nobody else on this host is inside.

    `path` is an empty file, made when absent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
