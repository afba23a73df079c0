"""Generated code, run apart from everything: bubblewrap's namespaces, few resources, no answers.

The program gets a private file system (the interpreter, read-only, and an empty folder in memory),
no network, no other process, no environment, no capability, and little time, memory and files. All
that it started ends with it. What it should have computed stays outside: its checks are evaluated
by a second process, as shut in as the first, which asks the program for the values that they name
(`infra/processes/programs`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TIMEOUT_S = 10
"""Of the wall clock; a busy machine starts Python slowly. The processor's time is limited below."""
_MOST_REPLY = 1 << 10
"""Bytes of an outcome that are read."""
_ROOM = Path(__file__).parent / "programs"
_SHOWN_AT = Path("/programs")
_SIDE = """
import sys
sys.path.insert(0, sys.argv[1])
from infra.processes.programs import {side}
{side}.main(*map(int, sys.argv[2:]))
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of one program."""

    compiles: bool  # it parses and compiles
    passes: bool  # it ran, and every check held


def why_not_isolated() -> str | None:
    """Return why programs cannot be isolated on this host; None where they can."""
    return _obstacle(shutil.which("bwrap"))


def run_checks(program: str, checks: Sequence[str], *, isolated: bool = True) -> Ran:
    """Run a Python program, then hold each check to what it computed.

    Whatever the program breaks, it has not passed; nor has one without a check.

    Args:
        program: Its source.
        checks: Expressions in the program's names, which must be true.
        isolated: Run it in namespaces of its own. Otherwise it may read what its user may read,
            and reach what this host reaches.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:

        def start(side: str, read: int, write: int, *descriptors: int) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(  # noqa: S603
                _command(side, descriptors, isolated=isolated),
                stdin=read,
                stdout=write,
                pass_fds=descriptors,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                start_new_session=True,
            )
            running.callback(_end, process)
            return process

        (asked, asks), (heard, says) = os.pipe(), os.pipe()
        try:
            start("program", asked, says)
            judge = start("judge", subprocess.PIPE, subprocess.PIPE, heard, asks)
        finally:
            for descriptor in (asked, asks, heard, says):
                os.close(descriptor)
        return _read(_reply(judge, json.dumps([program, list(checks)]).encode()))


def _reply(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Return what the process says until its end, a limit of bytes, or a limit of time."""
    assert process.stdin is not None  # noqa: S101  # for mypy: both are pipes
    assert process.stdout is not None  # noqa: S101
    deadline, reply = time.monotonic() + TIMEOUT_S, b""
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(request)
    while (left := deadline - time.monotonic()) > 0 and len(reply) <= _MOST_REPLY:
        if not select.select([process.stdout], [], [], left)[0]:
            break  # it took too long
        piece = os.read(process.stdout.fileno(), _MOST_REPLY)
        if not piece:
            break
        reply += piece
    return reply


def _read(reply: bytes) -> Ran:
    """Return what the judge said: a line when it compiled the program, another at its end."""
    said: dict[str, bool] = {"compiles": False, "passes": False}
    with contextlib.suppress(ValueError):
        for line in reply.splitlines():
            said |= json.loads(line)
    return Ran(**said)


def _command(side: str, descriptors: Sequence[int], *, isolated: bool) -> list[str]:
    """Return what runs one of the two sides."""
    own = [*("--ro-bind", str(_ROOM), str(_SHOWN_AT.joinpath(*_ROOM.parts[-3:])))]
    root = _SHOWN_AT if isolated else _ROOM.parents[2]
    return [
        *(_namespaces(*own) if isolated else ()),
        *_interpreter(),
        *("-c", _SIDE.format(side=side), str(root)),
        *map(str, descriptors),
    ]


def _interpreter() -> list[str]:
    """Return this interpreter, isolated from the environment, the user's site and the folder."""
    return [str(Path(getattr(sys, "_base_executable", sys.executable)).resolve()), "-I", "-S"]


def _namespaces(*own: str) -> list[str]:
    """Return the command that gives a program a host of its own, with what `own` shows in it."""
    shown = [Path("/usr"), Path("/lib"), Path("/lib64"), Path("/bin"), Path(sys.base_prefix)]
    bound = [option for path in dict.fromkeys(shown) if path.exists() for option in _shown(path)]
    return [
        str(shutil.which("bwrap")),
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        *("--cap-drop", "ALL"),
        "--clearenv",
        *bound,
        *own,
        *("--proc", "/proc"),
        *("--dev", "/dev"),
        *("--tmpfs", "/tmp"),  # noqa: S108  # nosec B108  # the program's own, in memory
        *("--chdir", "/tmp"),  # noqa: S108  # nosec B108
        "--",
    ]


def _shown(path: Path) -> list[str]:
    """Return how a part of the host is shown: read-only, a link as a link."""
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)]


@lru_cache(maxsize=1)
def _obstacle(command: str | None) -> str | None:
    if command is None:
        return "bubblewrap is not installed (apt-get install bubblewrap)"
    try:
        tried = subprocess.run(  # noqa: S603
            [*_namespaces(), *_interpreter(), "-c", "pass"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not work on this host ({error})"
    said = " ".join(tried.stderr.split())[:200] or f"exit code {tried.returncode}"
    return None if tried.returncode == 0 else f"bubblewrap does not work on this host ({said})"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started: all are of the session that began with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()
    process.wait()
