"""A real Dask scheduler with worker processes on 127.0.0.1, each stopped by its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
HERE = "127.0.0.1"
_QUIET = ["--no-dashboard", "--dashboard-address", f"{HERE}:0"]


@dataclass
class Cluster:
    """Where the scheduler listens, and the processes of its workers."""

    address: str
    scheduler: subprocess.Popen[bytes]
    folder: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_worker(self, environment: Mapping[str, str] | None = None) -> None:
        """Start one process without a nanny: killed, it stays dead."""
        place = self.folder / f"worker-{len(self.workers)}"
        arguments = [
            "--host",
            HERE,
            "--nthreads",
            "1",
            "--no-nanny",
            "--local-directory",
            str(place),
            *_QUIET,
        ]
        self.workers.append(
            _start(
                "dask_worker", [self.address, *arguments], place.with_suffix(".log"), environment
            )
        )


@contextmanager
def cluster(workers: int = 2) -> Iterator[Cluster]:
    """Start a scheduler and so many workers; the workers may still be starting."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
        told = folder / "scheduler.json"
        arguments = ["--host", HERE, "--port", "0", "--scheduler-file", str(told), *_QUIET]
        scheduler = _start("dask_scheduler", arguments, folder / "scheduler.log", None)
        stack.callback(_stop, scheduler)
        found = Cluster(_address(told, scheduler), scheduler, folder)
        stack.callback(lambda: [_stop(worker) for worker in found.workers])
        for _ in range(workers):
            found.add_worker()
        yield found


def _start(
    module: str, arguments: list[str], log: Path, environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("REQUANT_")}
    path = os.pathsep.join(
        [*(environment or {}).get("PYTHONPATH", "").split(os.pathsep), str(ROOT)]
    ).strip(os.pathsep)
    command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
    with log.open("wb") as stream:
        return subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            cwd=ROOT,
            env={**outside, **(environment or {}), "PYTHONPATH": path},
        )


def _address(told: Path, scheduler: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if told.exists() and (text := told.read_text()):
            return str(json.loads(text)["address"])
        assert scheduler.poll() is None, "the scheduler ended while it was starting"
        time.sleep(0.1)
    raise AssertionError("the scheduler did not start within 60 s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
