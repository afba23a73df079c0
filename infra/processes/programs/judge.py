"""The side of the checks: each is evaluated here, and asks the program for what it names.

What a program returns as plain data is plain data here, and whatever is done with it is done here:
`abs(f(1) - 2) < 1e-6`, `2 in f()` and `all(f(x) > 0 for x in range(3))` are decided by this
process. An object of the program's own class stays there, and what is done with it is done there:
`Stack().push(1).top()` and `Point(1) == Point(1)` are the program's to answer. Such an object
never decides against a value of the check: compared with one it is not equal, less or greater, it
contains what its items are, and arithmetic with one gives no number, however it is converted. Only
objects whose class is derived from a number, a text or a container are that data then.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import json
import operator
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from infra.processes.programs.program import limit
from infra.processes.programs.wire import Away, Wire

_MODULES = (
    *("cmath", "collections", "datetime", "decimal", "fractions", "functools"),
    *("itertools", "json", "math", "operator", "re", "statistics", "string"),
)
"""What a check may use by its name, the judge's own."""
_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "divmod")
_BITS = ("and_", "or_", "xor", "lshift", "rshift")
_ALONE = ("neg", "pos", "invert")
_NUMBERS = ("abs", "bool", "float", "hash", "int", "len", "round")
_ORDERS = ("eq", "ne", "lt", "le", "gt", "ge")
_MOST_ITEMS = 256
_wire: Wire


class Program(Away):
    """An object of the program's."""

    __met = False

    def meets(self) -> Program:
        """Return it as what has a value of the check in it, by arithmetic."""
        other = Program(Away.number_of(self))
        other.__met = True
        return other

    def has_met(self) -> bool:
        """Return whether a value of the check is in it, by arithmetic."""
        return self.__met

    def __getattr__(self, name: str) -> Any:
        scalar = Away.scalar_of(self)
        if scalar is not None and hasattr(scalar, name):
            return getattr(scalar, name)
        return _wire.ask("operate", "getattr", self, name)

    def __call__(self, *values: object, **named: object) -> Any:
        """Call it there."""
        return _wire.ask("call", self, list(named), *values, *named.values())

    def __getitem__(self, key: object) -> Any:
        return _wire.ask("operate", "getitem", self, key)

    def __iter__(self) -> Iterator[Any]:
        items, most = _wire.ask("operate", "iter", self), 1
        while found := _wire.ask("following", items, most):
            yield from found
            most = min(2 * most, _MOST_ITEMS)

    def __next__(self) -> Any:
        found = _wire.ask("following", self, 1)
        if not found:
            raise StopIteration
        return found[0]

    def __reversed__(self) -> Iterator[Any]:
        return iter(_wire.ask("operate", "reversed", self))

    def __contains__(self, item: object) -> bool:
        if isinstance(item, Program):
            return bool(_wire.ask("operate", "contains", self, item))
        return any(one is item or one == item for one in self)

    def __str__(self) -> str:
        return str(_wire.ask("operate", "str", self))

    def __repr__(self) -> str:
        return str(_wire.ask("operate", "repr", self))

    def __format__(self, how: str) -> str:
        return str(_wire.ask("operate", "format", self, how))

    def __instancecheck__(self, value: object) -> bool:
        return bool(_wire.ask("operate", "isinstance", value, self))

    def __subclasscheck__(self, kind: object) -> bool:
        return bool(_wire.ask("operate", "issubclass", kind, self))


def _data(value: Program) -> Any:
    """Return what an object is as plain data, to hold it against a value of the check.

    Raises:
        TypeError: It is none, or came of arithmetic that the program's class did with such a value.
    """
    if Program.has_met(value):
        raise TypeError("the program's class made it of a value of the check")
    scalar = Away.scalar_of(value)
    return _wire.ask("data", value) if scalar is None else scalar


def _order(name: str) -> Callable[[Program, object], object]:
    def compared(self: Program, other: object) -> object:
        if isinstance(other, Program):
            return _wire.ask("operate", name, self, other)
        if other is None and name in ("eq", "ne"):
            return name == "ne"
        return getattr(operator, name)(_data(self), other)

    return compared


def _arithmetic(name: str, *, reflected: bool) -> Callable[[Program, object], object]:
    act = divmod if name == "divmod" else getattr(operator, name)

    def calculated(self: Program, other: object) -> object:
        scalar = Away.scalar_of(self)
        if scalar is not None and not isinstance(other, Program):
            return act(other, scalar) if reflected else act(scalar, other)
        found = _wire.ask("operate", name, *((other, self) if reflected else (self, other)))
        apart = isinstance(other, Program) and not Program.has_met(other)
        return found if apart and not Program.has_met(self) else _met(found)

    return calculated


def _met(found: object) -> Program:
    if not isinstance(found, Program):
        raise TypeError("the program's class made plain data of a value of the check")
    return Program.meets(found)


def _alone(name: str) -> Callable[..., object]:
    def calculated(self: Program, *rest: object) -> object:
        found = _wire.ask("operate", name, self, *rest)
        return _met(found) if Program.has_met(self) else found

    return calculated


for _name in _ORDERS:
    setattr(Program, f"__{_name}__", _order(_name))
for _name in (*_ARITHMETIC, *_BITS):
    _plain = _name.rstrip("_")
    setattr(Program, f"__{_plain}__", _arithmetic(_name, reflected=False))
    setattr(Program, f"__r{_plain}__", _arithmetic(_name, reflected=True))
for _name in (*_ALONE, *_NUMBERS):
    setattr(Program, f"__{_name}__", _alone(_name))


def _type(value: object) -> object:
    return _wire.ask("operate", "type", value) if isinstance(value, Program) else type(value)


def _isinstance(value: object, kind: Any) -> bool:
    if not isinstance(value, Program) or not isinstance(kind, type):
        return isinstance(value, kind)
    if kind not in _PLAIN:
        return bool(_wire.ask("operate", "isinstance", value, kind))
    with contextlib.suppress(TypeError):
        return isinstance(_data(value), kind)
    return False


def _issubclass(kind: Any, other: Any) -> bool:
    if isinstance(kind, Program):
        return bool(_wire.ask("operate", "issubclass", kind, other))
    return issubclass(kind, other)


def _callable(value: object) -> bool:
    if isinstance(value, Program):
        return bool(_wire.ask("operate", "callable", value))
    return callable(value)


class Names(dict[str, object]):
    """The names of the checks: what they bind, the judge's own, and else the program's."""

    def __init__(self) -> None:
        own = {"type": _type, "isinstance": _isinstance, "issubclass": _issubclass}
        super().__init__(own, callable=_callable)
        self._modules: set[str] = set()
        self._of_program: set[str] = set()

    def read(self, check: ast.expr) -> None:
        """Take from a check which names mean modules, and which built-in names the program's."""
        nodes = list(ast.walk(check))
        self._modules = {
            node.value.id
            for node in nodes
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in _MODULES
        }
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        bound = {node.id for node in nodes if isinstance(node, ast.Name) and _binds(node)}
        bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        alone = all(hasattr(builtins, name) for name in used - bound - self._modules)
        self._of_program = _innermost(nodes) if alone else set()

    def __getitem__(self, name: str) -> object:
        if name in self._of_program:
            return _wire.ask("name", name)
        return super().__getitem__(name)

    def __missing__(self, name: str) -> object:
        if name in self._modules:
            return importlib.import_module(name)
        if hasattr(builtins, name):
            raise KeyError(name)
        return _wire.ask("name", name)


def _binds(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _innermost(nodes: list[ast.AST]) -> set[str]:
    """Return what is called by its name with nothing that is called in turn."""
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return {
        call.func.id
        for call in calls
        if isinstance(call.func, ast.Name)
        and not any(isinstance(node, ast.Call) for node in ast.walk(call) if node is not call)
    }


def _holds(check: str, names: Names) -> bool:
    tree = ast.parse(check.strip(), mode="eval")
    names.read(tree.body)
    return bool(eval(compile(tree, "check", "eval"), names))  # noqa: S307  # nosec B307


def _compiles(program: str) -> bool:
    try:
        compile(program, "answer", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def main(incoming: int, outgoing: int) -> None:
    """Read a program and its checks from standard input; write what became of them to the output.

    Args:
        incoming: The descriptor of what the program's process says.
        outgoing: The descriptor of what it hears.
    """
    global _wire  # one a process
    limit()
    program, checks = json.load(sys.stdin)
    compiles = _compiles(program)
    print(json.dumps({"compiles": compiles}), flush=True)
    with os.fdopen(incoming, "rb") as heard, os.fdopen(outgoing, "wb") as said:
        serves = {"call": lambda target, _named, *values: target(*values)}
        _wire = Wire(heard, said, serves, Program, of_builtins=False)
        names = Names()
        try:
            _wire.ask("run", program)
            held = [_holds(check, names) for check in checks]
        except BaseException:  # whatever a check raises, it does not hold
            held = [False]
        print(json.dumps({"passes": bool(held) and all(held)}), flush=True)
        os._exit(0)
