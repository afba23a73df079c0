"""Processes that live no longer than whoever started them: the parent's side, and the child's."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from infra.errors import Unavailable

GRACE_S = 15.0
"""Seconds that a process has to end by itself before it is killed."""
WATCHED = "REQUANT_ENDS_WITH_PARENT"
"""Set for a child whose standard input ends when its parent is gone."""


class SupervisedProcess(Protocol):
    """A process that is watched: `subprocess.Popen`, or a copy of a warm one."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """Its exit status, once it was seen to have ended."""

    def poll(self) -> int | None:
        """Return its exit status; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status; raise `subprocess.TimeoutExpired` where it runs on."""


def handed_on() -> dict[str, str]:
    """Return this process's environment without the token: what is served acts for nobody."""
    return {name: value for name, value in os.environ.items() if name != "REQUANT_TOKEN"}


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    sockets: Iterable[socket.socket] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module (`-m NAME …`) in a group of its own; end the whole group afterwards.

    The child must call `end_with_parent`. Its copies of the sockets are the only ones left open.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    given = tuple(sockets)
    with log.open("ab") as file:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env={**handed_on(), **(environment or {}), WATCHED: "1"},
            pass_fds=[handed.fileno() for handed in given],
            start_new_session=True,  # Ctrl-C reaches it only through us
        )
    for handed in given:
        handed.close()
    try:
        yield process
    finally:
        stop(process)
        if process.stdin is not None:
            process.stdin.close()


def ask_to_stop(process: SupervisedProcess) -> None:
    """Send SIGTERM to the process and its group."""
    for member in _group(process.pid):
        with contextlib.suppress(psutil.Error):
            member.terminate()


def stop(process: SupervisedProcess) -> None:
    """Stop the process and its group, by force after `GRACE_S`.

    A process that ended leaves no children either.
    """
    members = _group(process.pid)
    ask_to_stop(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    _, alive = psutil.wait_procs(members, timeout=1)
    for member in alive:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.wait()


def stop_below(pid: int) -> None:
    """Stop all that a process started and they started, by force after `GRACE_S`; not itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        _end(psutil.Process(pid).children(recursive=True))


def end_with_parent() -> None:
    """End this process and all that it started once the parent is gone.

    Call it first thing in a child.
    """
    if os.environ.pop(WATCHED, None) == "1":
        threading.Thread(target=_watch, name="parent", daemon=True).start()


def listening_socket(port: int, *, fixed: bool) -> socket.socket:
    """Open a socket of 127.0.0.1 at the port.

    Unless the port is `fixed`, a free one does when it is taken.

    Raises:
        Unavailable: A fixed port is taken, or no port can be had.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(("127.0.0.1", port))
        opened.listen(128)
    except OSError as error:
        opened.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES) and not fixed and port != 0:
            return listening_socket(0, fixed=True)
        raise Unavailable(
            f"the port {port} of 127.0.0.1 cannot be had ({error.strerror}): "
            "stop what uses it, or set another"
        ) from error
    return opened


def port_of(opened: socket.socket) -> int:
    """Return the port that a socket listens on."""
    return int(opened.getsockname()[1])


def _group(leader: int) -> list[psutil.Process]:
    """List the living processes of a group, its leader too; a group that is gone has none."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def _watch() -> None:
    while os.read(0, 1024):  # nobody writes: this returns when the parent's end is closed
        pass
    threading.Thread(target=_end_family, name="ending").start()


def _end_family() -> None:
    """Ask this process and all below it to stop, and end by force what has not after `GRACE_S`."""
    family = psutil.Process().children(recursive=True)
    os.killpg(os.getpgrp(), signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    _end(family)
    threading.main_thread().join(max(1.0, deadline - time.monotonic()))
    if threading.main_thread().is_alive():
        os.kill(os.getpid(), signal.SIGKILL)


def _end(family: Sequence[psutil.Process]) -> None:
    """Ask processes to stop, and end by force those that have not after `GRACE_S`."""
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=GRACE_S)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
