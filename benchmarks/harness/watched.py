"""A command in a process of its own, and the memory that it and its children hold meanwhile."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_S = 0.02
"""Between two looks."""


@dataclass(frozen=True, slots=True)
class WatchedCommand:
    """What a command printed and took."""

    output: str
    resident: int  # bytes at the peak, pages of files included
    anonymous: int  # bytes at the peak that are in no file
    seconds: float
    cpu: float  # seconds, children included


def watched(command: Sequence[str], environment: Mapping[str, str] | None = None) -> WatchedCommand:
    """Run a command to its end.

    Raises:
        CalledProcessError: It failed.
    """
    started, before = time.perf_counter(), os.times()
    peaks = {"resident": 0, "anonymous": 0}
    # Commands are this interpreter's, or that of a peer which the caller names.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    ) as child:
        watching = threading.Thread(target=_watch, args=(child, peaks))
        watching.start()
        output, _ = child.communicate()
        watching.join()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    took = time.perf_counter() - started
    return WatchedCommand(output, peaks["resident"], peaks["anonymous"], took, cpu)


def _watch(child: subprocess.Popen[str], peaks: dict[str, int]) -> None:
    process = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            fields = [_fields(item.pid) for item in family]
        except (psutil.Error, OSError):
            continue
        for name, field in (("resident", "VmRSS"), ("anonymous", "RssAnon")):
            total = sum(item.get(field, 0) for item in fields)
            peaks[name] = max(peaks[name], total)
        time.sleep(EVERY_S)


def _fields(pid: int) -> Mapping[str, int]:
    """Return a process's sizes in bytes, by the kernel's names."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")
    }
