"""Processes that begin as a copy of one that has imported what they need, within milliseconds.

`warm_start` starts that process, `python -m infra.processes.warm`, which imports modules and does
nothing else, so that it has no thread. A copy is a session of its own; it is given environment,
arguments, output and sockets as a fresh interpreter would be, and runs a module as `__main__`.
Memory to which neither writes is shared.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.processes import supervision
from infra.settings import use_workspace

_STATUS = struct.Struct("!i")
_MOST_DESCRIPTORS = 8
_LOST = 255
"""The exit status of a copy whose end nobody saw: the warm process was gone before."""
_LOOK_S = 0.1
_more: socket.socket | None = None
"""In a copy: by what more copies are asked for."""


class WarmProcess:
    """A copy that runs, as `subprocess.Popen` shows one."""

    def __init__(self, pid: int, status: int, lifeline: int) -> None:
        """Hold the descriptors by which its end is told, and by which it sees ours."""
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._lifeline: int | None = lifeline
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status; raise `subprocess.TimeoutExpired` where it runs on."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def release(self) -> None:
        """Let it see that nobody watches it any more: it ends, if it does as it should."""
        with self._lock:
            lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)

    def __del__(self) -> None:
        self.release()
        os.close(self._status)  # not before: another thread may wait for what it tells

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if not selector.select(timeout):
                    return None
            with self._lock:
                told = b"" if self.returncode is not None else os.read(self._status, _STATUS.size)
                if told:
                    self.returncode = _STATUS.unpack(told)[0]
            if self.returncode is None:
                self.returncode = self._unseen(timeout)
        return self.returncode

    def _unseen(self, timeout: float | None) -> int | None:
        """Return the status of one whose end the warm process did not live to tell."""
        began = time.monotonic()
        while _is_alive(self.pid):
            if timeout is not None and time.monotonic() - began >= timeout:
                return None
            time.sleep(_LOOK_S)
        return _LOST


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class WarmStart:
    """The warm process, as those see it that want copies of it."""

    def __init__(self, asking: socket.socket) -> None:
        """Ask by this socket."""
        self._asking = asking

    def import_modules(self, modules: Sequence[str]) -> None:
        """Let it import modules, for all copies that are asked for later; raises `OSError`."""
        if modules:
            self._ask({"modules": list(modules)}, ())

    def start(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        name: str,
        environment: Mapping[str, str],
        folder: Path | None = None,
        log: Path | None = None,
        sockets: Mapping[str, socket.socket] | None = None,
    ) -> WarmProcess:
        """Start a copy that runs a module as `__main__`.

        Args:
            module: What runs.
            arguments: Its arguments.
            name: What lists of processes call it; 15 characters are kept.
            environment: All that its environment holds.
            folder: Its working directory; this process's where it is left out.
            log: Where its output goes; to that of this process where it is left out.
            sockets: Option -> socket: each is handed on, and the option names its number.

        Raises:
            OSError: The warm process is gone.
        """
        status, tells = os.pipe()
        sees, lifeline = os.pipe()
        handed = dict(sockets or {})
        with contextlib.ExitStack() as stack:
            for number in (tells, sees):
                stack.callback(os.close, number)
            output = [1, 2] if log is None else [stack.enter_context(log.open("ab")).fileno()] * 2
            own = [opened.fileno() for opened in handed.values()]
            asked = {
                "module": module,
                "arguments": list(arguments),
                "options": list(handed),
                "name": name,
                "environment": dict(environment),
                "folder": str(folder or Path.cwd()),
            }
            self._ask(asked, [tells, sees, *output, self._asking.fileno(), *own])
        told = os.read(status, _STATUS.size)
        if not told:
            os.close(status)
            os.close(lifeline)
            raise ConnectionResetError("the process that others begin from is gone")
        return WarmProcess(_STATUS.unpack(told)[0], status, lifeline)

    def _ask(self, asked: Mapping[str, object], descriptors: Sequence[int]) -> None:
        """Send one request: what it says goes through a pipe of its own, however long it is."""
        reads, writes = os.pipe()
        try:
            socket.send_fds(self._asking, [b"1"], [reads, *descriptors])
        except OSError:
            os.close(writes)
            raise
        finally:
            os.close(reads)
        with os.fdopen(writes, "wb") as pipe, contextlib.suppress(BrokenPipeError):
            pipe.write(json.dumps(asked).encode())


def ours() -> WarmStart | None:
    """Return the warm process that this one is a copy of; None for any other process."""
    return None if _more is None else WarmStart(_more)


@contextlib.contextmanager
def warm_start(
    log: Path, *, environment: Mapping[str, str] | None = None, settle: str = ""
) -> Iterator[WarmStart]:
    """Start the warm process; end it, and all its copies that still run, afterwards.

    Args:
        log: Where it writes what it has to say.
        environment: Variables beside this process's own that hold while modules are imported.
        settle: `module:function` that each copy calls before it runs what it is for.
    """
    own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    command = ("-m", "infra.processes.warm", "--fd", str(its.fileno()), "--settle", settle)
    with (
        contextlib.closing(own),
        supervision.running(command, log, environment=environment, sockets=[its]) as process,
    ):
        try:
            yield WarmStart(own)
        finally:
            supervision.stop_below(process.pid)


@contextlib.contextmanager
def running_copy(
    warm: WarmStart,
    module: str,
    arguments: Sequence[str] = (),
    *,
    name: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    sockets: Mapping[str, socket.socket] | None = None,
) -> Iterator[WarmProcess]:
    """Run a module in a copy, and end its whole group afterwards, as `supervision.running` does.

    Raises:
        OSError: The warm process is gone; the sockets are still open.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    process = warm.start(
        module,
        arguments,
        name=name,
        environment={**supervision.handed_on(), **(environment or {})},
        log=log,
        sockets=sockets,
    )
    for handed in (sockets or {}).values():
        handed.close()
    try:
        yield process
    finally:
        supervision.stop(process)
        process.release()


@dataclass(frozen=True, slots=True)
class _Request:
    """What was asked for, and the descriptors that came with it."""

    asked: Mapping[str, object]
    tells: int
    sees: int
    output: tuple[int, int]
    handed: tuple[int, ...]  # the socket to ask for more by, then those of the options


def main() -> None:
    """Import and fork as asked until whoever started this process is gone."""
    parser = argparse.ArgumentParser(prog="python -m infra.processes.warm", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="a datagram socket of requests")
    parser.add_argument("--settle", default="", help="module:function that copies call first")
    arguments = parser.parse_args()
    requests = socket.socket(fileno=int(arguments.fd))
    os.environ.pop(supervision.WATCHED, None)
    use_workspace(None)
    gc.disable()  # it would write to all that is to be shared
    request = _serve(requests)
    if request is not None:  # this is a copy
        _become(request, str(arguments.settle))


def _serve(requests: socket.socket) -> _Request | None:
    """Answer requests; return one in the copy that is to fulfil it, and None at the end."""
    running: dict[int, int] = {}  # process -> where its status goes
    woken, wakes = os.pipe()
    for number in (woken, wakes):
        os.set_blocking(number, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        for number in (requests.fileno(), woken, 0):
            selector.register(number, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if woken in ready:
                _tell_ends(running, woken)
            if requests.fileno() in ready and (request := _received(requests)) is not None:
                if (pid := os.fork()) == 0:
                    for number in (woken, wakes, requests.detach(), *running.values()):
                        os.close(number)
                    return request
                _forked(pid, request, running)
            if 0 in ready:  # nobody writes there: whoever started this process is gone
                return None


def _received(requests: socket.socket) -> _Request | None:
    """Read one request; import what it names, or return what is to be forked."""
    _, descriptors, _, _ = socket.recv_fds(requests, 1, _MOST_DESCRIPTORS)
    with os.fdopen(descriptors[0], "rb") as pipe:
        said = pipe.read()
    if not said:
        return None
    asked = json.loads(said)
    for module in asked.get("modules", ()):
        with contextlib.suppress(Exception):  # whatever runs it says what is wrong with it
            importlib.import_module(module)
    if "module" not in asked:
        return None
    gc.freeze()  # copies do not look through what is there now
    tells, sees, out, err, *handed = descriptors[1:]
    return _Request(asked, tells, sees, (out, err), tuple(handed))


def _forked(pid: int, request: _Request, running: dict[int, int]) -> None:
    """Keep by what the end of the new process is told."""
    running[pid] = request.tells
    for number in {request.sees, *request.output, *request.handed}:
        os.close(number)


def _tell_ends(running: dict[int, int], woken: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(woken, 4096):
            pass
    for pid, tells in list(running.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with contextlib.suppress(BrokenPipeError):
                os.write(tells, _STATUS.pack(os.waitstatus_to_exitcode(status)))
            os.close(running.pop(pid))


def _become(request: _Request, settle: str) -> None:
    """Run what was asked for, as a fresh interpreter would."""
    global _more
    os.setsid()  # Ctrl-C reaches it only through those who watch it
    os.write(request.tells, _STATUS.pack(os.getpid()))
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.enable()
    os.close(request.tells)
    for number, place in zip((request.sees, *request.output), (0, 1, 2), strict=True):
        os.dup2(number, place)
    for number in {request.sees, *request.output}:
        os.close(number)
    asked, (more, *sockets) = request.asked, request.handed
    os.environ.clear()
    os.environ.update({str(name): str(value) for name, value in _pairs(asked["environment"])})
    os.environ[supervision.WATCHED] = "1"
    _more = socket.socket(fileno=more)
    os.chdir(str(asked["folder"]))
    _be_called(str(asked["name"]))
    module, options = str(asked["module"]), _texts(asked["options"])
    numbered = [word for pair in zip(options, map(str, sockets), strict=True) for word in pair]
    sys.argv = [module, *_texts(asked["arguments"]), *numbered]
    if settle:
        of, _, function = settle.partition(":")
        getattr(importlib.import_module(of), function)()
    with warnings.catch_warnings(action="ignore"):  # it may have been imported before
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _be_called(name: str) -> None:
    """Let lists of processes tell the copies apart, where the system keeps such a name."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name[:15])


def _pairs(value: object) -> list[tuple[object, object]]:
    return list(value.items()) if isinstance(value, dict) else []


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


if __name__ == "__main__":
    importlib.import_module("infra.processes.warm").main()  # so that `ours` finds what it sets
