"""Prefect's way to start a run's process is still the one that is replaced, and only for runs."""

import asyncio
import inspect
import os
import signal
from typing import Any

import pytest
from prefect.runner import _starter_engine
from prefect.runner._process_manager import ProcessHandle

from flows.orchestration import warm_runs


def test_prefects_starter_looks_up_how_it_starts_a_process_where_we_put_ours() -> None:
    source = inspect.getsource(_starter_engine.EngineCommandStarter.start)
    assert "await run_process(" in source
    assert f'"-m", "{warm_runs.ENGINE}"' in source
    asked = set(inspect.signature(warm_runs._run_forked).parameters)
    assert {"command", "task_status", "task_status_handler", "env", "cwd"} <= asked


def test_another_command_than_the_engine_is_refused() -> None:
    run = warm_runs._run_forked(
        ["sh", "-c", "ls"], task_status=None, task_status_handler=str, env={}
    )
    with pytest.raises(RuntimeError, match=r"only prefect\.engine is forked"):
        asyncio.run(run)


class Status:
    """Keeps the handle that a starter reports, and stops what it stands for."""

    def started(self, handle: Any) -> None:
        self.handle = handle
        os.kill(handle.pid, signal.SIGTERM)


def test_a_run_has_the_environment_it_is_given_can_be_stopped_and_says_how_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warm_runs, "_engine", ended_by_its_environment)
    command = ["python", "-m", warm_runs.ENGINE]
    for code, status in ((7, None), (-signal.SIGTERM, Status())):
        reported = status or Reported()
        asyncio.run(
            warm_runs._run_forked(
                command, task_status=reported, task_status_handler=ProcessHandle, env={"CODE": "7"}
            )
        )
        assert reported.handle.returncode == code
        assert not reported.handle.is_alive()


class Reported:
    """Keeps the handle that a starter reports."""

    def started(self, handle: Any) -> None:
        self.handle = handle


def ended_by_its_environment(environment: dict[str, str], _: str | None) -> None:
    import time

    time.sleep(1)
    raise SystemExit(int(environment["CODE"]))
