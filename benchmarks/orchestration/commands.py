"""CPU time of the commands that only read, beside an earlier commit's, on one workspace."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.orchestration.served import MODEL

ROOT = Path(__file__).parents[2]
BASE = "49ce40b"
"""The last commit whose reading commands loaded everything that runs a model."""
PACKAGES = ("flows", "tasks", "infra")
READING: Mapping[str, Sequence[str]] = {
    "status": ("status",),
    "history": ("history", MODEL),
    "explain": ("explain", MODEL),
    "model list": ("model", "list"),
    "lineage": ("lineage", MODEL),
}
BESIDE: Mapping[str, Sequence[str]] = {"recipes": ("recipes",), "--help": ("--help",)}
"""Measured without a goal."""
GOAL = 0.25
ROUNDS, QUICK_ROUNDS = 9, 1


@dataclass(frozen=True, slots=True)
class CommandRow:
    """Figures of one command."""

    command: str = column("command")
    before: float = column("CPU s, before", ".3f")  # user and system, with processes waited for
    now: float = column("now", ".3f")
    ratio: float = column("ratio", ".3f")


def measure(quick: bool, base: str = BASE) -> ResultTable:
    """Measure this checkout beside the commit `base`, in turns.

    Raises:
        ValueError: for an unknown commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        workspace, earlier = Path(folder, "workspace"), Path(folder, "earlier")
        unpack(base, earlier)
        run_python(ROOT, workspace, ["-m", "benchmarks.orchestration.served", str(workspace)])
        return compare(earlier, workspace, QUICK_ROUNDS if quick else ROUNDS, base)


def compare(earlier: Path, workspace: Path, rounds: int, base: str) -> ResultTable:
    """Return the medians of `rounds` rounds in which each command ran once in each checkout."""
    commands = {**READING, **BESIDE}
    rows = [_row(name, commands[name], earlier, workspace, rounds) for name in commands]
    goals = [
        Goal(f"{row.command}: fraction of the CPU time before:", GOAL, row.ratio, "at most")
        for row in rows
        if row.command in READING
    ]
    title = f"CPU time of commands that only read, beside {base}: medians of {rounds}"
    return ResultTable("commands", title, rows, goals)


def unpack(revision: str, folder: Path, packages: Sequence[str] = PACKAGES) -> None:
    """Unpack the code of a commit in a new folder.

    Raises:
        ValueError: where git knows no such commit.
    """
    command = ["git", "archive", revision, *packages]
    packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        why = packed.stderr.decode(errors="replace").strip()
        raise ValueError(f"commit {revision} cannot be read ({why}): fetch it, or give --base")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")


def cpu_seconds(checkout: Path, workspace: Path, arguments: Sequence[str]) -> float:
    """Return user and system time of `requant ARGUMENTS`; raises `RuntimeError` when it fails."""
    return run_python(checkout, workspace, ["-m", "flows.cli", *arguments]).cpu


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process took, with processes that it waited for, and what it printed."""

    cpu: float  # s, user and system
    wall: float  # s
    output: str


def run_python(checkout: Path, workspace: Path, arguments: Sequence[str]) -> Spent:
    """Run this interpreter on a checkout, with no setting of Requant but the workspace.

    Raises `RuntimeError` when it fails.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REQUANT_")}
    environment = {**kept, "REQUANT_WORKSPACE": str(workspace), "PYTHONPATH": str(checkout)}
    command, began = [sys.executable, *arguments], time.perf_counter()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=output, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        text, complaint = _text(output), _text(errors)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed in {checkout}: {text}{complaint}")
    return Spent(usage.ru_utime + usage.ru_stime, wall, text)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().strip()


def _row(
    name: str, arguments: Sequence[str], earlier: Path, workspace: Path, rounds: int
) -> CommandRow:
    checkouts = (earlier, ROOT)
    for checkout in checkouts:  # compiles to bytecode, and brings files into memory
        cpu_seconds(checkout, workspace, arguments)
    turns = [
        [cpu_seconds(checkout, workspace, arguments) for checkout in checkouts]
        for _ in range(rounds)
    ]
    before, now = (median(times) for times in zip(*turns, strict=True))
    return CommandRow(name, before, now, now / before)
