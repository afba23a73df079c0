"""How much memory this process may still take: the host's, or less where a container's limit says so."""

from collections.abc import Iterator
from pathlib import Path

from infra.errors import Unavailable

_V1, _V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


def available(root: Path = Path("/")) -> int | None:
    """Bytes: the least of what the host has free and what each control group above this process leaves.

    None where the system does not tell. `root` is where `proc` and `sys` lie.
    """
    free = [_free(root / "proc/meminfo"), *(_left(folder) for folder in _groups(root))]
    known = [one for one in free if one is not None]
    return min(known) if known else None


def require_memory(needed: int, what: str, mend: str, root: Path = Path("/")) -> None:
    """Raise `Unavailable` when a piece of work needs more bytes than there are, with both figures and what to do."""
    free = available(root)
    if free is not None and needed > free:
        raise Unavailable(
            f"{what} needs about {needed / 1e9:.1f} GB of memory, and this process can have {free / 1e9:.1f} GB: {mend}"
        )


def _free(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the memory controller, the process's own group first; a limit of any of them counts."""
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
    """What a group may still take; file pages that nobody uses are given back when they are needed."""
    for limit, usage in (_V2, _V1):
        try:
            most, taken = (group / limit).read_text().strip(), int((group / usage).read_text())
        except (OSError, ValueError):
            continue
        return None if most == "max" else max(int(most) - taken + _reclaimable(group), 0)
    return None


def _reclaimable(group: Path) -> int:
    try:
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(fields.get("total_inactive_file", fields.get("inactive_file", "0")))
    except (OSError, ValueError):
        return 0
