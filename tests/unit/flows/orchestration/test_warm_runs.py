"""Prefect's way to start a run's process is still the one that is replaced, and only for runs."""

import asyncio
import inspect
import os
import signal
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.runner import _starter_engine
from prefect.runner._process_manager import ProcessHandle

from flows.orchestration import warm_runs
from infra.processes.supervision import handed_on
from infra.processes.warm import WarmStart, warm_start

COMMAND = ["python", "-m", warm_runs.ENGINE]
RUN = """
import os, sys, time
from infra.processes.supervision import end_with_parent

end_with_parent()
time.sleep(1)
sys.exit(int(os.environ["CODE"]))
"""


def test_prefects_starter_looks_up_how_it_starts_a_process_where_we_put_ours() -> None:
    source = inspect.getsource(_starter_engine.EngineCommandStarter.start)
    assert "await run_process(" in source
    assert f'"-m", "{warm_runs.ENGINE}"' in source
    asked = set(inspect.signature(warm_runs._run_copy).parameters)
    assert {"command", "task_status", "task_status_handler", "env", "cwd"} <= asked


def test_another_command_than_the_engine_is_refused() -> None:
    run = warm_runs._run_copy(
        cast(WarmStart, None), ["sh", "-c", "ls"], task_status=None, task_status_handler=str, env={}
    )
    with pytest.raises(RuntimeError, match=r"only prefect\.engine begins as a copy"):
        asyncio.run(run)


class Reported:
    """Keeps the handle that a starter reports."""

    def started(self, handle: Any) -> None:
        self.handle = handle


class Stopped(Reported):
    """Stops what the handle stands for."""

    def started(self, handle: Any) -> None:
        super().started(handle)
        os.kill(handle.pid, signal.SIGTERM)


def test_a_run_has_the_environment_it_is_given_can_be_stopped_and_says_how_it_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a_run.py").write_text(RUN)
    monkeypatch.setattr(warm_runs, "ENGINE", "a_run")
    place = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    place |= {"REQUANT_WORKSPACE": str(tmp_path)}
    with warm_start(tmp_path / "warm.log", environment=place) as warm:
        for code, reported in ((7, Reported()), (-signal.SIGTERM, Stopped())):
            asyncio.run(
                warm_runs._run_copy(
                    warm,
                    ["python", "-m", "a_run"],
                    task_status=reported,
                    task_status_handler=ProcessHandle,
                    env={**handed_on(), **place, "CODE": "7"},
                )
            )
            assert reported.handle.returncode == code
            assert not reported.handle.is_alive()


def test_without_the_warm_process_a_run_starts_as_prefect_starts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gone:
        def start(self, *_: Any, **__: Any) -> None:
            raise ConnectionResetError("gone")

    asked: list[Any] = []

    async def fresh(command: list[str], **told: Any) -> str:
        asked.append((command, told["env"]))
        return "as Prefect does"

    monkeypatch.setattr(warm_runs, "_run_fresh", fresh)
    run = warm_runs._run_copy(
        cast(WarmStart, Gone()), COMMAND, task_status=None, task_status_handler=str, env={"A": "b"}
    )
    assert asyncio.run(run) == "as Prefect does"
    assert asked == [(COMMAND, {"A": "b"})]
