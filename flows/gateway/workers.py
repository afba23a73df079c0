"""Several processes of the gateway that take turns at one listening socket.

One that ends, however it did, is started again while the others answer on: connections wait at the
socket, which is held here.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from flows.orchestration.services import (
    GATEWAY,
    HOST,
    Started,
    address_of,
    await_answer,
    listen,
    log_of,
    process_of,
)
from infra.errors import Unavailable
from infra.gateway.metrics import SHARED, forget_worker
from infra.processes.supervision import SupervisedProcess, ask_to_stop
from infra.settings import Settings

POLL_S = 0.5
MOST_ENDS, WITHIN_S = 5, 60.0
"""Workers that may end within so many seconds; where one more does, it is no accident."""
_log = logging.getLogger(__name__)


class Workers:
    """The processes behind one address."""

    def __init__(
        self,
        address: str,
        log: Path,
        begin: Callable[[], AbstractContextManager[SupervisedProcess]],
        forget: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Run none yet.

        Args:
            address: http://127.0.0.1:PORT.
            log: What they write to.
            begin: Starts one, and stops it afterwards.
            forget: Is told the id of one that ended.
        """
        self.address, self.log = address, log
        self._begin, self._forget = begin, forget
        self._running: list[tuple[SupervisedProcess, ExitStack]] = []
        self._ends = deque[float](maxlen=MOST_ENDS)  # of the monotonic clock

    @property
    def processes(self) -> tuple[SupervisedProcess, ...]:
        """Return those that run now."""
        return tuple(process for process, _ in self._running)

    def start(self, count: int) -> None:
        """Start so many."""
        for _ in range(count):
            self._running.append(self._begun())

    def look(self) -> None:
        """Start those again that ended.

        Raises:
            Unavailable: Too many did within a minute.
        """
        for place, (process, left) in enumerate(self._running):
            code = process.poll()
            if code is None:
                continue
            left.close()  # ends what it started, before another process has its id
            self._forget(process.pid)
            now, ends = time.monotonic(), self._ends
            if len(ends) == MOST_ENDS and now - ends[0] < WITHIN_S:
                raise Unavailable(f"the gateway stopped (exit {code}): see {self.log}")
            ends.append(now)
            _log.warning("a worker ended (exit %d) and is started again: see %s", code, self.log)
            self._running[place] = self._begun()

    def wait(self) -> None:
        """Keep them running.

        Raises:
            Unavailable: Too many ended within a minute.
        """
        while True:
            self.look()
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Ask all to end, and wait until they have."""
        for process in self.processes:
            ask_to_stop(process)
        for _, left in self._running:
            left.close()

    def _begun(self) -> tuple[SupervisedProcess, ExitStack]:
        left = ExitStack()
        return left.enter_context(self._begin()), left


@contextmanager
def working(settings: Settings, count: int, environment: Mapping[str, str]) -> Iterator[Workers]:
    """Serve by so many processes; each begins to answer once it has opened what it serves.

    Raises:
        Unavailable: They did not start.
    """
    opened, log = listen(settings, GATEWAY), log_of(settings, GATEWAY.name)
    chosen = {
        **environment,
        "REQUANT_WORKSPACE": str(settings.root),
        "REQUANT_GATEWAY_WORKERS": str(count),
    }

    def begin() -> AbstractContextManager[SupervisedProcess]:
        return process_of(
            HOST,
            (GATEWAY.name, GATEWAY.application),
            name=GATEWAY.name,
            log=log,
            environment=chosen,
            warm=None,
            sockets={"--fd": opened.dup()},
        )

    def forget(worker: int) -> None:
        if SHARED in chosen:
            forget_worker(chosen[SHARED], worker)

    with ExitStack() as stack:
        stack.callback(opened.close)
        if count > 1:
            chosen[SHARED] = tempfile.mkdtemp(prefix="requant-metrics-")
            stack.callback(shutil.rmtree, chosen[SHARED], ignore_errors=True)
        workers = Workers(address_of(opened), log, begin, forget)
        stack.callback(workers.stop)
        workers.start(count)
        first = Started(GATEWAY, workers.address, workers.processes[0])
        await_answer(first, settings.secret(), log)
        yield workers
