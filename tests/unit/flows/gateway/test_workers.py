"""A worker that ends is started again; where they end all the time, nobody is left waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from flows.gateway.workers import MOST_ENDS, Workers
from infra.errors import Unavailable
from infra.processes.supervision import SupervisedProcess, running

SLEEPS, ENDS = "import time; time.sleep(60)", "raise SystemExit(3)"


def beginning(log: Path, code: str) -> Callable[[], AbstractContextManager[SupervisedProcess]]:
    @contextmanager
    def begin() -> Iterator[SupervisedProcess]:
        with running(("-c", code), log) as process:
            yield process

    return begin


def looked(workers: Workers, ended: list[int], count: int) -> None:
    """Look until so many ended."""
    deadline = time.monotonic() + 30
    while len(ended) < count:
        assert time.monotonic() < deadline
        workers.look()


def test_a_worker_that_is_killed_is_started_again_and_the_other_stays(tmp_path: Path) -> None:
    ended: list[int] = []
    workers = Workers("", tmp_path / "log", beginning(tmp_path / "log", SLEEPS), ended.append)
    try:
        workers.start(2)
        stays, killed = workers.processes
        os.kill(killed.pid, signal.SIGKILL)
        looked(workers, ended, 1)
        assert ended == [killed.pid]
        assert workers.processes[0] is stays
        assert workers.processes[1].poll() is None
        assert workers.processes[1].pid != killed.pid
    finally:
        workers.stop()
    assert all(process.poll() is not None for process in workers.processes)


def test_workers_that_end_all_the_time_are_given_up(tmp_path: Path) -> None:
    ended: list[int] = []
    workers = Workers("", tmp_path / "log", beginning(tmp_path / "log", ENDS), ended.append)
    try:
        workers.start(1)
        with pytest.raises(Unavailable, match=r"exit 3\): see"):
            looked(workers, ended, MOST_ENDS + 2)
    finally:
        workers.stop()
    assert len(ended) == MOST_ENDS + 1


def test_what_a_dead_worker_counted_stays_and_its_gauges_do_not(tmp_path: Path) -> None:
    counts = "m.fell_back('a', True); m.answered('a', 200, 0.1); print(os.getpid())"
    reads = "forget_worker(sys.argv[1], int(sys.argv[2])); print(m.exposition().decode())"

    def run(code: str, *arguments: str) -> str:
        begins = "import os, sys; from infra.gateway.metrics import *; m = GatewayMetrics(); "
        command = [sys.executable, "-c", begins + code, *arguments]
        shared = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        return subprocess.run(
            command, env=shared, capture_output=True, text=True, check=True
        ).stdout

    worker = run(counts).strip()
    fallen, answered = 'fallen_back{model="a"} 1.0', 'requests_total{code="200",model="a"} 1.0'
    assert fallen in run(reads, str(tmp_path), "0")
    told = run(reads, str(tmp_path), worker)
    assert fallen not in told
    assert answered in told
