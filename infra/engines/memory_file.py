"""A large graph as a file in memory, from which ONNX Runtime reads it without stopping Python.

Bytes that are handed over are copied and parsed while the interpreter's lock is held: 60 ms for
60 MB, in which a server answers nobody. A path is read with the lock released, in half the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.weights.naming import weight_files

_DESCRIPTORS = Path("/proc/self/fd")
LARGE = 1 << 20
"""Bytes; a smaller graph stops nothing for long."""


@contextmanager
def as_file(graph: bytes) -> Iterator[str | None]:
    """Yield a path under which this process finds the bytes until the block ends.

    It is None for a small graph, for one with weights beside it, which are looked for where a file
    lies, and where the system has no such files: Linux has, where /proc is mounted.
    """
    if len(graph) < LARGE or not _has_files_in_memory() or weight_files(graph):
        yield None
        return
    descriptor = os.memfd_create("graph")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(graph)
        yield str(_DESCRIPTORS / str(descriptor))
    finally:
        os.close(descriptor)


def _has_files_in_memory() -> bool:
    return hasattr(os, "memfd_create") and _DESCRIPTORS.is_dir()
