"""Runs that begin in a copy of a process which has imported the flows already.

Prefect's runner starts a fresh interpreter for each run, and importing takes seconds, of which a
person who pressed a button sees nothing. Here a run is a fork of the standard library's fork
server: a process without threads that has imported the flows, and done nothing else.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Any

from prefect.context import refresh_global_settings_context
from prefect.runner import _starter_engine

IMPORTED = ("flows.deployments", "prefect.flow_engine", "prefect.runner", "mlflow.tracking")
"""What the fork server imports, for every run."""
ENGINE = "prefect.engine"
"""The module that a run's process is, as Prefect starts it."""


def begin_runs_warm() -> None:
    """Let the runners of this process fork their runs, and begin to import what these need."""
    multiprocessing.set_forkserver_preload(list(IMPORTED))
    forkserver.ensure_running()
    # The class that starts runs is made to be given another way to start processes at this name.
    _starter_engine.run_process = _run_forked  # type: ignore[assignment, attr-defined]


async def _run_forked(
    command: list[str],
    *,
    task_status: Any,
    task_status_handler: Callable[[Any], object],
    env: Mapping[str, str],
    cwd: Any = None,
    **_: object,
) -> ForkServerProcess:
    """Run the engine to its end as a fork; raises `RuntimeError` for any other command."""
    if command[1:] != ["-m", ENGINE]:
        raise RuntimeError(f"only {ENGINE} is forked, not {' '.join(command)}")
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_engine, args=(dict(env), None if cwd is None else str(cwd)))
    process.start()
    task_status.started(task_status_handler(process))
    await asyncio.to_thread(process.join)
    return process


def _engine(environment: Mapping[str, str], folder: str | None) -> None:
    """Become the engine of the run that the environment names."""
    os.environ.clear()
    os.environ.update(environment)
    if folder is not None:
        os.chdir(folder)
    refresh_global_settings_context()
    sys.argv = [ENGINE]
    with warnings.catch_warnings(action="ignore"):  # it was imported before, as a module
        runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)
