"""Copies of a warm process: what they are given, how they end, and what if it is gone."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.orchestration.services import process_of
from infra.processes.supervision import handed_on, stop
from infra.processes.warm import WarmStart, ours, running_copy, warm_start

COPIED = """
import json, os, pathlib, sys
from infra.processes.supervision import end_with_parent

began = "json.decoder" in sys.modules, "colorsys" in sys.modules  # before anything of its own

if __name__ == "__main__":
    end_with_parent()
    match sys.argv[1]:
        case "tell":
            import socket
            with socket.socket(fileno=int(sys.argv[4])) as opened:
                told = {"argv": sys.argv[:3], "own": os.environ.get("OWN"), "folder": os.getcwd(),
                        "warm": began[1], "settled": os.environ.get("SETTLED"),
                        "group": os.getpgrp() == os.getpid(), "umask": os.umask(0)}
                print(json.dumps(told), flush=True)
                opened.sendall(b"here")
        case "end":
            sys.exit(int(sys.argv[2]))
        case "fail":
            raise ValueError("as it should")
        case "more":
            from infra.processes.warm import ours
            more = ours().start("copied", ["end", "5"], name="more", environment=dict(os.environ))
            sys.exit(more.wait(30) + 1)
        case "wait":
            import time
            time.sleep(60)


def settle():
    os.environ["SETTLED"] = "first"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("warm")
    (made / "copied.py").write_text(textwrap.dedent(COPIED))
    return made


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(folder), *sys.path])
    return {"PYTHONPATH": path, "REQUANT_WORKSPACE": str(folder / "workspace")}


@pytest.fixture(scope="module")
def warm(folder: Path, environment: dict[str, str]) -> Iterator[WarmStart]:
    log = folder / "warm.log"
    with warm_start(log, environment=environment, settle="copied:settle") as started:
        started.import_modules(["colorsys", "there.is.no.such.module"])
        yield started


def begun(warm: WarmStart, environment: dict[str, str], *arguments: str) -> int:
    """Return how a copy ended."""
    process = warm.start(
        "copied", arguments, name="test", environment={**handed_on(), **environment}
    )
    try:
        return process.wait(60)
    finally:
        process.release()


def test_a_copy_is_given_what_a_fresh_process_would_be(
    warm: WarmStart, folder: Path, environment: dict[str, str]
) -> None:
    near, far = socket.socketpair()
    log = folder / "logs" / "copy.log"
    with (
        near,
        running_copy(
            warm,
            "copied",
            ["tell", "something"],
            name="a-name-that-is-long",
            log=log,
            environment={**environment, "OWN": "its own"},
            sockets={"--fd": far},
        ) as process,
    ):
        assert process.wait(60) == 0, log.read_text()
        assert near.recv(10) == b"here"
    told = log.read_text()
    for words in (
        f'"argv": ["{folder}/copied.py", "tell", "something"]',
        '"own": "its own"',
        f'"folder": "{Path.cwd()}"',
        '"warm": true',
        '"settled": "first"',
        '"group": true',
        '"umask": 63',
    ):
        assert words in told


def test_how_a_copy_ended_is_told(warm: WarmStart, environment: dict[str, str]) -> None:
    assert begun(warm, environment, "end", "7") == 7
    assert begun(warm, environment, "fail") == 1
    assert begun(warm, environment, "more") == 6
    assert ours() is None


def test_a_copy_can_be_stopped_and_told_from_the_others(
    warm: WarmStart, environment: dict[str, str]
) -> None:
    process = warm.start(
        "copied", ["wait"], name="a-name-that-is-long", environment={**handed_on(), **environment}
    )
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    comm = Path(f"/proc/{process.pid}/comm")
    if comm.exists():
        deadline = time.monotonic() + 30
        while comm.read_text() != "a-name-that-is-\n":
            assert time.monotonic() < deadline
            time.sleep(0.05)
    stop(process)
    assert process.returncode == process.poll() == -signal.SIGTERM
    process.release()


def test_a_copy_ends_with_whoever_asked_for_it(
    warm: WarmStart, environment: dict[str, str]
) -> None:
    process = warm.start(
        "copied", ["wait"], name="test", environment={**handed_on(), **environment}
    )
    ended: list[int] = []
    waiting = threading.Thread(target=lambda: ended.append(process.wait(60)))
    waiting.start()
    process.release()  # as the system does for one that was killed
    waiting.join(60)
    assert ended == [-signal.SIGTERM]


def test_without_the_warm_process_copies_run_on_and_others_start_afresh(
    folder: Path, environment: dict[str, str]
) -> None:
    log = folder / "afresh.log"
    with warm_start(folder / "gone.log", environment=environment) as warm:
        process = warm.start(
            "copied", ["wait"], name="test", environment={**handed_on(), **environment}
        )
        parent = psutil.Process(process.pid).parent()
        assert parent is not None
        parent.kill()
        parent.wait(30)
        with pytest.raises(OSError, match=r"refused|gone"):
            warm.start("copied", ["end", "0"], name="test", environment=handed_on())
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == 255, "nobody could see how it ended"
        process.release()
        arguments = {"name": "test", "log": log, "environment": environment, "warm": warm}
        with process_of("copied", ["end", "3"], **arguments) as fresh:
            assert fresh.wait(60) == 3, log.read_text()
