"""Generated code, run apart from everything: bubblewrap's namespaces, few resources, no answers.

The program gets a private file system (the interpreter, read-only, and an empty folder in memory),
no network, no other process, no environment, no capability, and little time, memory and files. All
that it started ends with it. What it should have computed stays outside: of a check such as
`f(2) == 4` the process evaluates `f(2)`, and the comparison is made here. A check that compares
with no constant is evaluated by the process, and is as honest as the program.
"""

from __future__ import annotations

import ast
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TIMEOUT_S = 10
"""Of the wall clock; a busy machine starts Python slowly. The processor's time is limited below."""
_MOST_REPLY = 1 << 16
"""Bytes of a program's answers that are read."""

_DRIVER = """
import json, numbers, os, resource, sys
limits = {"CPU": 2, "AS": 1 << 29, "FSIZE": 0, "NOFILE": 16, "NPROC": 0, "CORE": 0}
for name, most in limits.items():
    kind = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(kind)[1]
    most = most if hard < 0 else min(most, hard)
    resource.setrlimit(kind, (most, most))
program, expressions = json.load(sys.stdin)
sys.stdin.close()
tell = os.fdopen(os.dup(1), "w")
os.close(1)
sys.stdout = sys.stderr = open(os.devnull, "w")
def plain(value):
    if value is None or isinstance(value, (bool, str, bytes)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return (set if kind is frozenset else kind)(map(plain, value))
    raise TypeError
try:
    compiled = compile(program, "answer", "exec")
    tell.write("compiles\\n")
    tell.flush()
    names = {}
    exec(compiled, names)
    values = [repr(plain(eval(text, names))) for text in expressions]
    tell.write(json.dumps(values))
except BaseException:
    pass
tell.flush()
os._exit(0)
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of one program."""

    compiles: bool  # it parses and compiles
    passes: bool  # it ran, and every check held


@dataclass(frozen=True, slots=True)
class _Check:
    """A check taken apart: what the process evaluates, and what the values are compared with."""

    operands: tuple[str | None, ...]  # sources of expressions; None: the constant in that place
    constants: Mapping[int, object]
    operators: tuple[ast.cmpop, ...]  # between the operands; empty: the value itself must be true


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
    taken = [_taken_apart(check) for check in checks]
    wanted = [text for check in taken if check for text in check.operands if text is not None]
    compiles, answers = _run(program, wanted, isolated=isolated)
    if answers is None or len(answers) != len(wanted) or not taken:
        return Ran(compiles, False)
    rest, held = iter(answers), True
    for check in taken:  # each takes its answers, whatever became of the one before
        held = check is not None and _holds(check, rest) and held
    return Ran(compiles, held)


def _run(
    program: str, expressions: Sequence[str], *, isolated: bool
) -> tuple[bool, list[str] | None]:
    """Return whether the program compiles, and the values of the expressions as literals."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(  # noqa: S603
            [*(_namespaces() if isolated else ()), *_interpreter(), "-c", _DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            return _read(_reply(process, json.dumps([program, list(expressions)]).encode()))
        finally:
            _end(process)


def _reply(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Return what the process says until its end, a limit of bytes, or a limit of time."""
    assert process.stdin is not None  # noqa: S101  # for mypy: both are pipes
    assert process.stdout is not None  # noqa: S101
    deadline, reply = time.monotonic() + TIMEOUT_S, b""
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(request)
    while (left := deadline - time.monotonic()) > 0 and len(reply) <= _MOST_REPLY:
        if not select.select([process.stdout], [], [], left)[0]:
            return b""  # it took too long
        piece = os.read(process.stdout.fileno(), _MOST_REPLY)
        if not piece:
            return reply
        reply += piece
    return b""


def _read(reply: bytes) -> tuple[bool, list[str] | None]:
    first, _, rest = reply.partition(b"\n")
    compiles = first == b"compiles"
    try:
        values = json.loads(rest)
    except (ValueError, RecursionError):
        return compiles, None
    known = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return compiles, values if known else None


def _taken_apart(check: str) -> _Check | None:
    """Return what to evaluate of a check; None for what is no expression."""
    try:
        body = ast.parse(check.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    whole = _Check((check.strip(),), {}, ())
    if not isinstance(body, ast.Compare) or not all(
        isinstance(operator, (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE))
        for operator in body.ops
    ):
        constant = _constants([body])
        return _Check((None,), constant, ()) if constant else whole
    operands = [body.left, *body.comparators]
    constants = _constants(operands)
    if not constants:
        return whole
    sources = (
        None if place in constants else ast.unparse(node) for place, node in enumerate(operands)
    )
    return _Check(tuple(sources), constants, tuple(body.ops))


def _constants(nodes: Sequence[ast.expr]) -> dict[int, object]:
    constants = {}
    for place, node in enumerate(nodes):
        with contextlib.suppress(ValueError, TypeError, RecursionError, MemoryError):
            constants[place] = ast.literal_eval(node)
    return constants


def _holds(check: _Check, answers: Iterator[str]) -> bool:
    """Return whether a check holds of the values that the process gave, the next ones in turn."""
    values = []
    for place, source in enumerate(check.operands):
        values.append(check.constants[place] if source is None else _value(next(answers)))
    if any(value is _Unreadable for value in values):
        return False
    try:
        if not check.operators:
            return bool(values[0])
        return all(
            _compared(operator, left, right)
            for operator, left, right in zip(check.operators, values, values[1:], strict=False)
        )
    except (TypeError, RecursionError):
        return False


class _Unreadable:
    """What no literal stands for."""


def _value(literal: str) -> object:
    if literal in ("nan", "inf", "-inf"):
        return float(literal)
    try:
        return ast.literal_eval(literal)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return _Unreadable


def _compared(operator: ast.cmpop, left: object, right: object) -> bool:
    orders = {ast.Lt: "__lt__", ast.LtE: "__le__", ast.Gt: "__gt__", ast.GtE: "__ge__"}
    if isinstance(operator, (ast.Eq, ast.NotEq)):
        return (left == right) is isinstance(operator, ast.Eq)
    answer = getattr(left, orders[type(operator)])(right)
    if answer is NotImplemented:
        mirrored = {ast.Lt: "__gt__", ast.LtE: "__ge__", ast.Gt: "__lt__", ast.GtE: "__le__"}
        answer = getattr(right, mirrored[type(operator)])(left)
    return answer is True


def _interpreter() -> list[str]:
    """Return this interpreter, isolated from the environment, the user's site and the folder."""
    return [str(Path(getattr(sys, "_base_executable", sys.executable)).resolve()), "-I", "-S"]


def _namespaces() -> list[str]:
    """Return the command that gives a program a host of its own."""
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
