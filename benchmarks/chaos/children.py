"""Work done in a forked child, so that a kill takes nothing of ours with it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KILLED, REFUSED = -signal.SIGKILL, 3
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a child."""

    code: int  # exit code, or minus the signal
    said: Any  # what its work returned, or the text of what it raised


class Child:
    """One forked process and the pipe on which it answers."""

    def __init__(self, work: Callable[[], Any], *, tied: bool = False) -> None:
        """Start the work; where it is `tied`, it ends with this thread, however that ends."""
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            if tied:
                ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            os.close(read)
            _run(work, write)
        os.close(write)
        self._read = read

    @property
    def lives(self) -> bool:
        """Return whether it has not ended yet."""
        return not os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def kill_after(self, seconds: float) -> None:
        """Kill it at a moment of its life, or find that it ended before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.lives:
                return
            time.sleep(0.001)
        os.kill(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill it now, and wait for it."""
        if self.lives:
            os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> Ended:
        """Wait for it, once."""
        with os.fdopen(self._read, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, json.loads(answer) if answer else None)


def in_child(work: Callable[[], Any]) -> Ended:
    """Do the work in a child, and wait for it."""
    return Child(work).end()


def _run(work: Callable[[], Any], pipe: int) -> None:
    from infra.errors import RequantError

    code = 0
    try:
        answer = work()
    except RequantError as error:
        answer, code = str(error), REFUSED
    except BaseException:
        answer, code = traceback.format_exc(), 1
    try:
        os.write(pipe, json.dumps(answer, default=str).encode()[:60_000])
    finally:
        sys.stdout.flush()
        os._exit(code)
