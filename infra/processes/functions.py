"""A trusted function of a user's own, called in a process of its own.

What it prints, changes, leaks or breaks stays there, and it can be ended when it takes too long.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

_DRIVER = """
import os, pickle, sys
reply = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
with open(sys.argv[1], "rb") as file:
    sys.path[:] = pickle.load(file)
    module, name, arguments = pickle.load(file)
stage = "cannot be imported:"
try:
    import importlib
    function = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        answer = f"cannot be imported: {module} has no function {name}", "", None
    elif arguments is None:
        answer = "", "", None
    else:
        stage = "raised"
        returned = function(*arguments)
        import numpy
        kind, values = type(returned).__name__, None
        try:
            if numpy.ma.is_masked(returned):  # a case without a value is none
                returned = returned.astype(float).filled(numpy.nan)
            plain = numpy.asarray(returned)
            if plain.dtype.kind in "biuf":
                values = plain.astype(numpy.float64)
        except Exception:
            pass
        answer = "", kind, values
except BaseException as exc:
    try:
        line = " ".join(str(exc).encode(errors="backslashreplace").decode().split())[:300]
    except Exception:  # its own text cannot be made
        line = ""
    answer = f"{stage} {type(exc).__name__}" + (f": {line}" if line else ""), "", None
pickle.dump(answer, reply)
reply.flush()
os._exit(0)
"""


def call_apart(
    module: str,
    function: str,
    arguments: Sequence[object],
    *,
    folder: str | None,
    seconds: float,
) -> NDArray[np.float64]:
    """Call a function and return the numbers that it returns, whatever their shape.

    Args:
        module: its module, importable, or in `folder`.
        function: its name there.
        arguments: that can be pickled; the function gets copies.
        folder: searched after all else; None for an installed module.
        seconds: of the wall clock, after which it is ended.

    Raises:
        BadInput: it cannot be imported, raised, took too long, ended its process, or returned
            anything but numbers. The text goes on from the function's name.
    """
    kind, values = _run(module, function, arguments, folder, seconds)
    if values is None:
        raise BadInput(f"returned {kind}, not numbers")
    return values


def require_importable(module: str, function: str, *, folder: str | None, seconds: float) -> None:
    """Import a function's module in a process of its own; it raises as `call_apart` does."""
    _run(module, function, None, folder, seconds)


def _run(
    module: str,
    function: str,
    arguments: Sequence[object] | None,
    folder: str | None,
    seconds: float,
) -> tuple[str, NDArray[np.float64] | None]:
    """Return the name of what was returned, and its numbers where it holds some."""
    path = [*sys.path, folder] if folder is not None and folder not in sys.path else sys.path
    with tempfile.TemporaryFile() as file:  # without a name: nothing is left after a kill
        pickle.dump(list(path), file)
        given = None if arguments is None else tuple(arguments)
        pickle.dump((module, function, given), file)
        file.flush()
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", _DRIVER, f"/dev/fd/{file.fileno()}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=[file.fileno()],
            start_new_session=True,
        )
        try:
            reply, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise BadInput(f"took longer than {seconds:g} s and was ended") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not reply:
        raise BadInput(f"ended its process ({_ending(process.returncode)})")
    try:
        why, kind, values = pickle.loads(reply)  # noqa: S301  # nosec B301
    except (pickle.UnpicklingError, EOFError) as exc:  # ended amid its answer
        raise BadInput(f"ended its process ({_ending(process.returncode)})") from exc
    if why:
        raise BadInput(str(why))
    return str(kind), values


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
