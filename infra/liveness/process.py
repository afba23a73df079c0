"""Which process did something, so that another can tell for certain whether it is gone."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from infra.canonical import Json, sha256

_PROC = Path("/proc")


def identity() -> Mapping[str, Json]:
    """Return what names this process: its place, its number and when it started.

    The place is where the number means something; numbers are used again.
    """
    number = os.getpid()
    return {"place": _place(), "process": number, "started": _started(number)}


def is_gone(who: object) -> bool:
    """Tell whether a process certainly runs no more.

    One of another place or an unknown one may still run.
    """
    if not isinstance(who, Mapping) or _place() is None or who.get("place") != _place():
        return False
    number, started = who.get("process"), who.get("started")
    if not isinstance(number, int) or not isinstance(started, int):
        return False
    return _started(number) != started


def _place() -> str | None:
    """Name one boot of one machine, and the namespace of its process numbers.

    It is None where that cannot be known.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = (_PROC / "self/ns/pid").readlink()
    except OSError:
        return None
    return sha256(f"{platform.node()} {boot} {namespace}".encode())[:16]


def _started(number: int) -> int | None:
    """Return the clock ticks after the boot (proc(5), stat, field 22); None when none runs."""
    try:
        after_name = (_PROC / str(number) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = after_name[0], after_name[19]
    return None if state in "ZX" else int(started)  # a zombie does nothing any more
