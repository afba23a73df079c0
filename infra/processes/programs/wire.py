"""Values between two processes, as lines of JSON: plain data whole, any other object by number.

Each side answers what the other asks while it waits for an answer itself, so that a function which
one side passed can be called by the other. Only the standard library: both sides run without more.
"""

from __future__ import annotations

import builtins
import collections
import functools
import importlib
import json
import numbers
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

MOST = 1 << 20
"""Bytes of one message."""
_CONTAINERS = (list, dict, set, collections.deque)
_SEQUENCES: dict[str, Callable[[list[object]], object]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}
_TEXTS = {
    "Decimal": "decimal",
    "Fraction": "fractions",
    **dict.fromkeys(("date", "datetime", "time"), "datetime"),
}
"""Kinds that are told as their text, and their modules."""
_SCALARS: dict[type, Callable[[Any], object]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
}
"""What an object of a derived class is, whatever that class says that it is."""


def _from_text(kind: str, told: str) -> object:
    made = getattr(importlib.import_module(_TEXTS[kind]), kind)
    return made.fromisoformat(told) if hasattr(made, "fromisoformat") else made(told)


_DATA: dict[str, Callable[[Any], object]] = {
    "int": functools.partial(int, base=16),
    "bytes": bytes.fromhex,
    "complex": lambda told: complex(*told),
    "range": lambda told: range(*told),
    **{kind: functools.partial(_from_text, kind) for kind in _TEXTS},
}


class Away:
    """What stands on this side for an object of the other.

    Args:
        number: The object's number there.
        data: What it is as a number or a text, where its class is derived from one.
    """

    def __init__(self, number: int, data: object = None) -> None:
        self.__number, self.__data = number, data

    def number_of(self) -> int:
        """Return the object's number there."""
        return self.__number

    def scalar_of(self) -> Any:
        """Return the number or text that it is; None for any other object."""
        return self.__data


class Wire:
    """One end of the line between two processes.

    Args:
        incoming: What the other side writes.
        outgoing: What it reads.
        serves: What this side does when it is asked, by its name.
        stands: Makes what stands here for an object of the other side.
        of_builtins: Whether functions and types of `builtins` are taken by their names, which the
            other side tells then. The judge takes none: a program could hand it `exec`.
    """

    def __init__(
        self,
        incoming: BinaryIO,
        outgoing: BinaryIO,
        serves: Mapping[str, Callable[..., object]],
        stands: Callable[[int, object], Away],
        *,
        of_builtins: bool,
    ) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._serves, self._stands, self._of_builtins = serves, stands, of_builtins
        self._kept: list[object] = []
        self._numbers: dict[int, int] = {}
        self._away: dict[int, Away] = {}

    def ask(self, act: str, *values: object) -> Any:
        """Let the other side do something, and return what comes of it.

        Lists, sets and dictionaries among the values are brought to what the act made of them.

        Raises:
            EOFError: The other side is gone, or says what cannot be read.
            Exception: What the act raised there: the built-in exception of its name.
        """
        self._say(["do", act, [self._told(value) for value in values]])
        while True:
            kind, *rest = self._heard()
            if kind == "do":
                self._answer(*rest)
            elif kind == "is":
                for place, changed in rest[1]:
                    _become(values[place], self._meant(changed))
                return self._meant(rest[0]) if rest[0] != ["same"] else values[rest[2]]
            else:
                raise _exception(str(rest[0]))

    def serve(self) -> None:
        """Answer until the other side is gone."""
        while True:
            kind, *rest = self._heard()
            if kind != "do":
                raise EOFError
            self._answer(*rest)

    def _answer(self, act: str, told: list[Any]) -> None:
        try:
            values = [self._meant(value) for value in told]
            before = [json.dumps(self._told(value)) for value in values]
            found = self._serves[act](*values)
            after = [self._told(value) for value in values]
            contained = [n for n, value in enumerate(values) if type(value) in _CONTAINERS]
            changed = [[n, after[n]] for n in contained if json.dumps(after[n]) != before[n]]
            same = [place for place in contained if values[place] is found]
            said = ["is", ["same"] if same else self._told(found), changed, *same[:1]]
        except EOFError:
            raise
        except BaseException as error:  # whatever a program raises is told
            said = ["raises", type(error).__name__]
        self._say(said)

    def _say(self, message: list[Any]) -> None:
        self._outgoing.write(json.dumps(message).encode() + b"\n")
        self._outgoing.flush()

    def _heard(self) -> list[Any]:
        line = self._incoming.readline(MOST)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise EOFError from None
        if not isinstance(message, list) or len(message) < 2:
            raise EOFError
        return message

    def _told(self, value: Any) -> Any:
        """Return a value as JSON: itself, or a kind and what belongs to it."""
        if value is None or type(value) in (bool, str, float):
            return value
        if type(value) is int:
            return value if abs(value) < 1 << 63 else ["int", hex(value)]
        if isinstance(value, Away):
            return ["yours", Away.number_of(value)]
        if (data := self._told_data(value)) is not None:
            return data
        name = getattr(value, "__name__", None)
        if not self._of_builtins and name and getattr(builtins, name, None) is value:
            return ["builtin", name]
        for scalar, plain in _SCALARS.items():
            if isinstance(value, scalar):
                return ["scalar", [self._kept_as(value)[1], self._told(plain(value))]]
        if isinstance(value, numbers.Integral):
            return self._told(int(value))
        return float(value) if isinstance(value, numbers.Real) else self._kept_as(value)

    def _told_data(self, value: Any) -> list[Any] | None:
        kind: type = type(value)
        name = kind.__name__
        if kind is bytes:
            return [name, value.hex()]
        if kind is complex:
            return [name, [value.real, value.imag]]
        if kind is range:
            return [name, [value.start, value.stop, value.step]]
        if kind is dict:
            return [name, [[self._told(key), self._told(item)] for key, item in value.items()]]
        if kind in _SEQUENCES.values():
            return [name, [self._told(item) for item in value]]
        module = sys.modules.get(_TEXTS.get(name, ""))
        if module is None or kind is not getattr(module, name):
            return None
        return [name, value.isoformat() if hasattr(value, "isoformat") else str(value)]

    def _kept_as(self, value: object) -> list[Any]:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._kept)
            self._kept.append(value)  # kept, so that its id stays its own
        return ["mine", self._numbers[id(value)]]

    def _meant(self, told: Any) -> Any:
        """Return the value that was told."""
        if not isinstance(told, list):
            return told
        kind, rest = told
        if kind == "mine":
            return self._away.setdefault(rest, self._stands(rest, None))
        if kind == "scalar":
            return self._away.setdefault(rest[0], self._stands(rest[0], self._meant(rest[1])))
        if kind == "yours":
            return self._kept[rest]
        if kind == "builtin" and self._of_builtins:
            return getattr(builtins, rest)
        if kind == "dict":
            return {self._meant(key): self._meant(item) for key, item in rest}
        if kind in _SEQUENCES:
            return _SEQUENCES[kind]([self._meant(item) for item in rest])
        return _DATA[kind](rest)


def _become(value: Any, changed: Any) -> None:
    """Bring a container to what another process made of its copy."""
    if isinstance(value, list):
        value[:] = changed
    elif isinstance(value, (dict, set)):
        value.clear()
        value.update(changed)
    elif isinstance(value, collections.deque):
        value.clear()
        value.extend(changed)


def _exception(name: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not EOFError:
        return kind(name)
    return RuntimeError(name)
