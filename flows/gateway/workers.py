"""Several processes of the gateway that take turns at one listening socket."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from flows.orchestration.services import (
    GATEWAY,
    HOST,
    Started,
    listen,
    log_of,
    process_of,
    started,
)
from infra.errors import Unavailable
from infra.gateway.metrics import SHARED
from infra.processes.supervision import SupervisedProcess
from infra.settings import Settings

POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes behind one address."""

    address: str  # http://127.0.0.1:PORT
    processes: tuple[SupervisedProcess, ...]
    log: str

    def wait(self) -> None:
        """Wait until one ends; then all are to.

        Raises:
            Unavailable: One did.
        """
        while all(process.poll() is None for process in self.processes):
            time.sleep(POLL_S)
        codes = [code for process in self.processes if (code := process.poll()) is not None]
        raise Unavailable(f"the gateway stopped (exit {codes[0]}): see {self.log}")


@contextmanager
def working(settings: Settings, count: int, environment: Mapping[str, str]) -> Iterator[Workers]:
    """Serve by so many processes; each begins to answer once it has opened what it serves.

    Raises:
        Unavailable: One did not start.
    """
    opened = listen(settings, GATEWAY)
    chosen = {**environment, "REQUANT_GATEWAY_WORKERS": str(count)}
    with ExitStack() as stack:
        if count > 1:
            folder = tempfile.mkdtemp(prefix="requant-metrics-")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            chosen[SHARED] = folder
        others = [
            stack.enter_context(
                process_of(
                    HOST,
                    (GATEWAY.name, GATEWAY.application),
                    name=GATEWAY.name,
                    log=log_of(settings, GATEWAY.name),
                    environment={"REQUANT_WORKSPACE": str(settings.root), **chosen},
                    warm=None,
                    sockets={"--fd": opened.dup()},
                )
            )
            for _ in range(count - 1)
        ]
        first: Started
        (first,) = stack.enter_context(started(settings, {GATEWAY: opened}, environment=chosen))
        processes = (first.process, *others)
        yield Workers(first.address, processes, str(log_of(settings, GATEWAY.name)))
