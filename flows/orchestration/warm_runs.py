"""Runs that begin in a copy of a process which has imported the flows already.

Prefect's runner starts a fresh interpreter for each run, and importing takes seconds, of which a
person who pressed a button sees nothing. Here a run is a copy of the warm process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prefect.runner import _starter_engine

from flows.orchestration.runtime import read_environment_again
from infra.processes.supervision import end_with_parent
from infra.processes.warm import WarmProcess, WarmStart

ENGINE = "prefect.engine"
"""The module that a run's process is, as Prefect starts it."""
SETTLE = f"{__name__}:settle"
_run_fresh = _starter_engine.run_process  # type: ignore[attr-defined]


def settle() -> None:
    """Let a copy of the warm process end with its parent, and read the environment it was given."""
    end_with_parent()
    read_environment_again()


def begin_runs_warm(warm: WarmStart) -> None:
    """Let the runners of this process begin their runs as copies."""
    # The class that starts runs is made to be given another way to start processes at this name.
    _starter_engine.run_process = partial(_run_copy, warm)  # type: ignore[attr-defined]


async def _run_copy(
    warm: WarmStart,
    command: list[str],
    *,
    task_status: Any,
    task_status_handler: Callable[[Any], object],
    env: Mapping[str, str],
    cwd: Any = None,
    **others: Any,
) -> Any:
    """Run the engine to its end as a copy, or afresh where the warm process is gone.

    Raises:
        RuntimeError: for any other command.
    """
    if command[1:] != ["-m", ENGINE]:
        raise RuntimeError(f"only {ENGINE} begins as a copy, not {' '.join(command)}")
    try:
        process = await asyncio.to_thread(_begin, warm, env, None if cwd is None else Path(cwd))
    except OSError:
        told = {"task_status": task_status, "task_status_handler": task_status_handler}
        return await _run_fresh(command, env=env, cwd=cwd, **told, **others)
    try:
        task_status.started(task_status_handler(process))
        await asyncio.to_thread(process.wait)
    finally:
        process.release()
    return process


def _begin(warm: WarmStart, environment: Mapping[str, str], folder: Path | None) -> WarmProcess:
    return warm.start(ENGINE, name="run", environment=environment, folder=folder)
