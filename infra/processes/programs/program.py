"""The side of a generated program: it runs once, then does with its objects what it is asked."""

from __future__ import annotations

import collections
import itertools
import operator
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from infra.processes.programs.wire import Away, Wire

_LIMITS = {"CPU": 2, "AS": 1 << 29, "FSIZE": 0, "NOFILE": 16, "NPROC": 0, "CORE": 0}
_OPERATIONS: dict[str, Callable[..., object]] = {
    **{name: function for name, function in vars(operator).items() if not name.startswith("_")},
    **{
        function.__name__: function
        for function in (bool, callable, divmod, float, format, hash, int, isinstance, issubclass)
    },
    **{function.__name__: function for function in (iter, len, repr, reversed, round, str, type)},
    "getattr": getattr,
}


_CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque)


def limit() -> None:
    """Leave this process little time, memory and files, and no child."""
    for name, most in _LIMITS.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = most if hard < 0 else min(most, hard)
        resource.setrlimit(kind, (most, most))


def main() -> None:
    """Answer on what was standard input and output; the program has neither."""
    limit()
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    sys.stdin.close()
    os.close(1)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # until the end
    names: dict[str, object] = {}

    def run(source: str) -> None:
        exec(compile(source, "answer", "exec"), names)  # noqa: S102  # nosec B102  # isolated

    def name(wanted: str) -> object:
        return eval(wanted, names)  # noqa: S307  # nosec B307  # a name, or a built-in one

    def call(target: Callable[..., object], named: list[str], *values: object) -> object:
        places = len(values) - len(named)
        return target(*values[:places], **dict(zip(named, values[places:], strict=True)))

    def operate(wanted: str, *values: object) -> object:
        return _OPERATIONS[wanted](*values)

    def following(items: Iterator[object], most: int) -> list[object]:
        return list(itertools.islice(items, most))

    def data(value: object) -> object:
        for kind in _CONTAINERS:
            if isinstance(value, kind):
                return kind(value)
        raise TypeError

    class Elsewhere(Away):
        """A function of the judge, which the program may call."""

        def __call__(self, *values: object) -> Any:
            """Call it there."""
            return wire.ask("call", self, [], *values)

    serves = {
        function.__name__: function for function in (run, name, call, operate, following, data)
    }
    wire = Wire(incoming, outgoing, serves, Elsewhere, of_builtins=True)
    try:
        wire.serve()
    finally:
        os._exit(0)
