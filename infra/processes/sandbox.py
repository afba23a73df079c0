"""Generated code, run in a process of its own with little time, memory and files.

It inherits no environment. This guards against accidents (loops, memory, stray files), not against
an attacker: the process may still read what its user may read. Run untrusted models on a machine
that holds nothing else.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

TIMEOUT_S = 10
"""Of the wall clock; a busy machine starts Python slowly. The processor's time is limited below."""

_DRIVER = """
import json, os, resource, sys
limits = {"CPU": 2, "AS": 1 << 29, "FSIZE": 0, "NOFILE": 16, "NPROC": 0, "CORE": 0}
for name, most in limits.items():
    kind = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(kind)[1]
    most = most if hard < 0 else min(most, hard)
    resource.setrlimit(kind, (most, most))
program, checks = json.load(sys.stdin)
sys.stdin.close()
tell = os.fdopen(os.dup(1), "w")
os.close(1)
sys.stdout = sys.stderr = open(os.devnull, "w")
found = {"compiles": False, "passes": False}
try:
    compiled = compile(program, "answer", "exec")
    found["compiles"] = True
    names = {}
    exec(compiled, names)
    found["passes"] = all([bool(eval(check, names)) for check in checks])
except BaseException:
    pass
tell.write(json.dumps(found))
tell.flush()
os._exit(0)
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of one program."""

    compiles: bool  # it parses and compiles
    passes: bool  # it ran, and every check held


def run_checks(program: str, checks: Sequence[str]) -> Ran:
    """Run a Python program, then evaluate each check in its names.

    Whatever the program breaks, it has not passed.
    """
    with tempfile.TemporaryDirectory() as folder:
        # This interpreter, isolated from the environment, the user's site and the current folder.
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", _DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            reply, _ = process.communicate(json.dumps([program, list(checks)]), timeout=TIMEOUT_S)
            outcome = json.loads(reply)
        except (subprocess.TimeoutExpired, ValueError, BrokenPipeError):
            return Ran(False, False)
        finally:
            _end(process)
    return Ran(bool(outcome["compiles"]), bool(outcome["passes"]) and bool(checks))


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and whatever it started: all are of the session that began with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
