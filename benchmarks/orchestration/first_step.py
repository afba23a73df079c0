"""Seconds from typing `requant maintain` to the flow's first step.

They are measured with a server and without, idle and under load.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from benchmarks.harness.table import Goal, ResultTable, column

ROOT = Path(__file__).parents[2]
MODEL, FIRST = "digits", "sampling the traffic window"
GOAL_S = 5.0
ROUNDS, QUICK_ROUNDS = 7, 1


@dataclass(frozen=True, slots=True)
class FirstStepRow:
    """Figures of one way to run it."""

    where: str = column("Prefect")
    busy: int = column("processes beside it, all of them computing")
    seconds: float = column("s to the first step, median", ".2f")
    slowest: float = column("slowest", ".2f")


def measure(quick: bool) -> ResultTable:
    """Measure without load, and with a computing process on every core."""
    rounds, cores = QUICK_ROUNDS if quick else ROUNDS, len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="requant-first-step-") as folder:
        workspace = Path(folder, "workspace")
        _prepare(workspace)
        rows = [_row("none", busy, workspace, {}, rounds) for busy in (0, cores)]
        with _server(Path(folder, "server")) as address:
            variables = {"REQUANT_PREFECT_API_URL": address}
            rows += [
                _row("a running server", busy, workspace, variables, rounds) for busy in (0, cores)
            ]
    goals = [
        Goal(f"Prefect: {row.where}; {row.busy} beside: s", GOAL_S, row.seconds, "at most")
        for row in rows
    ]
    return ResultTable("first-step", "From the command to its first step", rows, goals)


def _row(
    where: str, busy: int, workspace: Path, variables: Mapping[str, str], rounds: int
) -> FirstStepRow:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("REQUANT_")}
    environment = {
        **inherited,
        **variables,
        "PYTHONPATH": str(ROOT),
        "REQUANT_WORKSPACE": str(workspace),
    }
    seconds_to_first_step(environment)  # compiles to bytecode, and brings files into memory
    with _busy(busy):
        times = [seconds_to_first_step(environment) for _ in range(rounds)]
    return FirstStepRow(where, busy, median(times), max(times))


def seconds_to_first_step(environment: Mapping[str, str]) -> float:
    """Start the command and stop it at its first step; raise `RuntimeError` when it ends before."""
    command = [sys.executable, "-m", "flows.cli", "maintain", MODEL]
    begun = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = []
    try:
        for line in process.stdout:
            printed.append(line)
            if FIRST in line:
                return time.perf_counter() - begun
    finally:
        process.terminate()
        process.communicate()
    raise RuntimeError(f"{' '.join(command)} ended before its first step: {''.join(printed)}")


def _prepare(workspace: Path) -> None:
    """Register the shipped digits with an hour of traffic, by a process of this checkout."""
    code = (
        "from pathlib import Path; from benchmarks.orchestration.first_step import fill; "
        f"fill(Path({str(workspace)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def fill(workspace: Path) -> None:
    """Register the digits and write their corpus as traffic, a request every two seconds."""
    from dataclasses import replace

    from infra.settings import use_workspace
    from tasks.models.catalog import register
    from tasks.models.corpus import read_corpus
    from tasks.traffic.storage.parts import write_traffic

    store = use_workspace(workspace).store()
    register(ROOT / "examples" / MODEL / "model.yaml")
    rows = read_corpus(
        (ROOT / "examples" / MODEL / "traffic.parquet").read_bytes(), where="traffic"
    )
    start = datetime(2026, 1, 5, 8, tzinfo=UTC)
    write_traffic(
        store,
        MODEL,
        [replace(row, time=start + timedelta(seconds=2 * i)) for i, row in enumerate(rows)],
    )


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    from flows.orchestration.runtime import orchestrator
    from infra.settings import use_workspace

    with orchestrator(use_workspace(folder)) as address:
        yield address


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep so many processes busy that do nothing but compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
