"""What to type next, as a person would: after a command that prepares, or an interruption."""

import shlex
import shutil
import sys
from pathlib import Path

from infra.settings import settings


def command(*words: str) -> str:
    """Return the command as a person would type it.

    The virtual environment's programs need not be on the path.
    """
    return shlex.join([_program(), *words])


def _program() -> str:
    called = Path(sys.argv[0])
    on_path = shutil.which("requant")
    if called.name != "requant" or (on_path and Path(on_path).resolve() == called.resolve()):
        return "requant"
    return as_typed(called.absolute())


def given_workspace() -> list[str]:
    """Return the option that led to this workspace, for the command that comes next."""
    if "--workspace" not in sys.argv:
        return []
    return ["--workspace", as_typed(settings().root)]


def as_typed(folder: Path) -> str:
    """Return a path without that of the current folder above it, as a person would give it."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def after_adding(model: str) -> str:
    """Return how a model that was added gets traffic, and then a champion."""
    ours = given_workspace()
    imports = command(*ours, "traffic", "import", "PATH", "--model", model)
    simulates = command(*ours, "traffic", "simulate", model, "--scenario", "FILE")
    return f"next: {imports}, or {simulates}; then {command(*ours, 'maintain', model)}"


def how_to_go_on(arguments: list[str]) -> str:
    """Return what is safe to type next: an answer that was given may not be meant twice."""
    words, again = set(arguments), command(*arguments)
    if words & {"rollback", "approve", "reject"}:
        return f"see whether it was done with `{command(*given_workspace(), 'history')} MODEL`"
    if words & {"maintain", "requantize", "reconcile"}:
        return f"nothing is lost: run `{again}` again to go on"
    return f"run `{again}` again"
