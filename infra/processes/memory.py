"""How much memory this process may still take: the host's, or less by a container's limit."""

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from infra.errors import Unavailable

_V1, _V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this process can still have; None where the system is silent.

    They are the least of what the host has free and what each control group above this process
    leaves. `root` is where `proc` and `sys` lie.
    """
    free = [_free(root / "proc/meminfo"), *(_left(folder) for folder in _groups(root))]
    limits = [size for size in free if size is not None]
    return min(limits) if limits else None


def require_memory(needed: int, what: str, mend: str, root: Path = Path("/")) -> None:
    """Check that there are as many bytes of memory as a piece of work needs.

    Raises:
        Unavailable: There are fewer; it gives both figures and what to do.
    """
    free = available(root)
    if free is not None and needed > free:
        raise Unavailable(
            f"{what} needs about {needed / 1e9:.1f} GB of memory, "
            f"and this process can have {free / 1e9:.1f} GB: {mend}"
        )


def return_freed() -> None:
    """Give the system back what this process freed and its allocator keeps.

    glibc keeps pieces of many sizes, which the next arrays may not fit, and takes others beside
    them. Other allocators are left as they are.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _free(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _groups(root: Path) -> Iterator[Path]:
    """List the folders of the memory controller, the process's own group first.

    A limit of any of them counts.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = top / path.lstrip("/")
        yield group
        while group != top:
            group = group.parent
            yield group


def _left(group: Path) -> int | None:
    """Return the bytes that a group may still take.

    File pages that nobody uses are given back when they are needed.
    """
    for limit, usage in (_V2, _V1):
        try:
            most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        except (OSError, ValueError):
            continue
        return None if most == "max" else max(int(most) - used + _reclaimable(group), 0)
    return None


def _reclaimable(group: Path) -> int:
    try:
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(fields.get("total_inactive_file", fields.get("inactive_file", "0")))
    except (OSError, ValueError):
        return 0
