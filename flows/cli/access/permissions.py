"""Which role each command needs, where the store has users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from infra.access.roles import EVERY, Role

READS: Role | None = None
"""Needs no role: whoever runs it can read the files that it reads."""
ROLES: Mapping[str, Role | None] = {
    "approve": Role.APPROVER,
    "audit verify": READS,
    "deliver": Role.VIEWER,  # the act asks for operator, or approver of what waits
    "demo": READS,  # in a folder of its own
    "deploy": Role.ADMIN,
    "doctor": READS,
    "evaluate": Role.OPERATOR,
    "explain": READS,
    "export": READS,
    "gc": Role.ADMIN,
    "golden build": READS,
    "history": READS,
    "hold": Role.ADMIN,
    "init": READS,
    "key": Role.ADMIN,
    "keys export": READS,
    "keys retire": Role.ADMIN,
    "keys rotate": Role.ADMIN,
    "keys show": READS,
    "keys trust": Role.ADMIN,
    "lineage": READS,
    "link": Role.VIEWER,
    "maintain": Role.OPERATOR,
    "model add": Role.ADMIN,  # a spec says who approves
    "model list": READS,
    "pool build": READS,
    "publish device": Role.OPERATOR,
    "publish kserve": Role.OPERATOR,
    "publish triton": Role.OPERATOR,
    "publish vllm": Role.OPERATOR,
    "quantize": READS,  # files in, files out
    "reconcile": Role.OPERATOR,
    "reject": Role.APPROVER,
    "requantize": Role.OPERATOR,
    "recipes": READS,
    "restore": Role.OPERATOR,
    "rollback": Role.OPERATOR,
    "routing": READS,
    "serve": READS,  # a service: who asks it shows a token of their own
    "status": READS,
    "traffic forget": Role.ADMIN,
    "traffic import": Role.OPERATOR,
    "traffic pull": Role.OPERATOR,
    "traffic rekey": Role.ADMIN,
    "traffic simulate": Role.OPERATOR,
    "up": READS,  # likewise
    "users add": Role.ADMIN,
    "users list": READS,
    "users log": READS,
    "users recover": READS,  # for whoever holds the workspace's files and no admin's token
    "users revoke": Role.ADMIN,
    "users token": Role.ADMIN,
}


def commands(app: typer.Typer) -> dict[str, TyperCommand]:
    """Return every command by what is typed for it, such as "model add"."""
    return dict(_below(_root(app), ()))


def guarded(app: typer.Typer) -> TyperGroup:
    """Return the application; what needs a role is refused before it begins."""
    root = _root(app)
    for name, command in _below(root, ()):
        role = ROLES.get(name, Role.ADMIN)  # a test finds what is left out
        if role is not None and command.callback is not None:
            command.callback = _checked(command.callback, name, role)
    return root


def _root(app: typer.Typer) -> TyperGroup:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)  # noqa: S101  # for mypy: it has many commands
    return root


def _below(group: TyperGroup, path: tuple[str, ...]) -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _below(command, (*path, name))
        elif isinstance(command, TyperCommand):
            yield " ".join((*path, name)), command


def _checked(callback: Callable[..., Any], name: str, role: Role) -> Callable[..., Any]:
    def checked(*args: Any, **kwargs: Any) -> Any:
        from flows.orchestration.identity import authorized

        model = kwargs.get("model")
        authorized(role, str(model) if model else EVERY, f"run `requant {name}`")
        return callback(*args, **kwargs)

    return checked
