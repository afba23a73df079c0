"""CPU time of the commands that only read, beside an earlier commit's, on one workspace."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.served import MODEL
from benchmarks.table import Goal, Table, column

ROOT = Path(__file__).parents[1]
BASE = "49ce40b"
"""The last commit whose reading commands loaded everything that runs a model."""
ROOMS = ("flows", "tasks", "infra")
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
class Row:
    """One command."""

    command: str = column("command")
    before: float = column("CPU s, before", ".3f")  # user and system time of the process and of what it waited for
    now: float = column("now", ".3f")
    ratio: float = column("ratio", ".3f")


def measure(quick: bool, base: str = BASE) -> Table:
    """This checkout beside the commit `base`, in turns; raises `ValueError` where git knows no such commit."""
    with tempfile.TemporaryDirectory() as folder:
        workspace, earlier = Path(folder, "workspace"), Path(folder, "earlier")
        unpack(base, earlier)
        _python(ROOT, workspace, ["-m", "benchmarks.served", str(workspace)])
        return compare(earlier, workspace, QUICK_ROUNDS if quick else ROUNDS, base)


def compare(earlier: Path, workspace: Path, rounds: int, base: str) -> Table:
    """The medians of `rounds` rounds in which each command ran once in each checkout."""
    rows = [_row(name, arguments, earlier, workspace, rounds) for name, arguments in (READING | BESIDE).items()]
    goals = [
        Goal(f"{row.command}: share of the CPU time before:", GOAL, row.ratio, "at most")
        for row in rows
        if row.command in READING
    ]
    title = f"CPU time of commands that only read, beside {base}: medians of {rounds}"
    return Table("commands", title, rows, goals)


def unpack(revision: str, folder: Path) -> None:
    """The code of a commit of this repository in a new folder; raises `ValueError` where git knows no such commit."""
    packed = subprocess.run(["git", "archive", revision, *ROOMS], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        why = packed.stderr.decode(errors="replace").strip()
        raise ValueError(f"the commit {revision} cannot be read ({why}): fetch it, or name another by --base")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")


def cpu_seconds(checkout: Path, workspace: Path, arguments: Sequence[str]) -> float:
    """User and system time of `requant ARGUMENTS` from a checkout; raises `RuntimeError` when the command fails."""
    return _python(checkout, workspace, ["-m", "flows.cli", *arguments])


def _python(checkout: Path, workspace: Path, arguments: Sequence[str]) -> float:
    """Run this interpreter on the code of a checkout, with no setting of Requant but the workspace."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REQUANT_")}
    environment = {**kept, "REQUANT_WORKSPACE": str(workspace), "PYTHONPATH": str(checkout)}
    command = [sys.executable, *arguments]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(arguments)} failed in {checkout}: {output.read().decode().strip()}")
    return usage.ru_utime + usage.ru_stime


def _row(name: str, arguments: Sequence[str], earlier: Path, workspace: Path, rounds: int) -> Row:
    checkouts = (earlier, ROOT)
    for checkout in checkouts:  # compiles to bytecode, and brings files into memory
        cpu_seconds(checkout, workspace, arguments)
    turns = [[cpu_seconds(checkout, workspace, arguments) for checkout in checkouts] for _ in range(rounds)]
    before, now = (median(times) for times in zip(*turns, strict=True))
    return Row(name, before, now, now / before)
