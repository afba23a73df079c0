"""Where independent pieces of work run: this process, this machine's processes, a Dask cluster.

Correctness rests on none of it (ADR 35): a piece is named by keys and digests, may run twice, and
gives a value that is merged in order. A worker that dies costs the pieces it was working on, which
run again elsewhere.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from infra.cluster.in_process import InProcess
from infra.cluster.port import Mapper
from infra.settings import LOCAL, NONE, settings

MANY = 64
"""Pieces from which processes of this machine pay by default.

The processes take seconds to start, and a piece takes about one.
"""


@contextmanager
def open_mapper(cluster: str | None, *, pieces: int) -> Iterator[Mapper]:
    """Open where `pieces` of work run, by the setting: "none", "local", or a scheduler's address.

    Without one, MANY pieces or more go to a process a core of this machine, fewer stay in this
    process.

    Raises:
        BadInput: The address is none.
        Unavailable: Nobody answers there, or its versions differ.
    """
    chosen = cluster or (LOCAL if pieces >= MANY and _cores() > 1 else NONE)
    if chosen == NONE:
        yield InProcess()
    elif chosen == LOCAL:
        from infra.cluster.workers import local  # who stays in one process need not load it

        with local(_cores(), settings()) as mapper:
            yield mapper
    else:
        from infra.cluster.workers import connected

        with connected(chosen, settings()) as mapper:
            yield mapper


def shards_for(mapper: Mapper, most: int) -> int:
    """Return into how many shards work of `most` indivisible pieces is parted.

    There are two a worker, so that none waits long.
    """
    return 1 if mapper.workers == 1 else max(1, min(most, 2 * mapper.workers))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


__all__ = ["MANY", "InProcess", "Mapper", "open_mapper", "shards_for"]
