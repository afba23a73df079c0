"""Commands that run flows, as processes of their own: with a server and without.

They run to the end or are interrupted.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.settings import Settings
from tests.integration.conftest import EXAMPLES, images, serve
from tests.terminals import run_on_terminal

pytestmark = pytest.mark.timeout(400)
NOWHERE = "http://127.0.0.1:9/api"
"""Nothing listens there: whoever turned to Prefect all the same would be refused."""
WORKING = "trying int8-smooth"
"""A step by which the intent is written, and which takes a while."""


@dataclass(frozen=True)
class Place:
    """A workspace of one story, and the environment of its commands."""

    root: Path
    environment: dict[str, str]
    server: str | None
    auth: tuple[str, ...] = ()  # user and password of the server

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flows.cli", "--workspace", str(self.root), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=240,
            check=False,
        )

    def read(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def ledger(self) -> list[tuple[str, str, str]]:
        """Kind, actor and reason of every entry."""
        return [
            (one["kind"], one["actor"], one["reason"]) for one in self.read("history", "digits")
        ]


@pytest.fixture(scope="module")
def seeded(shared_workspace: Settings) -> Path:
    """Register the digits with a day of traffic, to be copied."""
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    serve(shared_workspace, "digits", 0, images(0.5, 1.0))
    return shared_workspace.root


@pytest.fixture(
    scope="module",
    params=["with a server", pytest.param("without a server", marks=pytest.mark.soak)],
)
def place(
    request: pytest.FixtureRequest, seeded: Path, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """Return a copy of the workspace; without a server the other tests' commands run as well."""
    return placed(request, seeded, tmp_path_factory, request.param)


@pytest.fixture
def alone(
    request: pytest.FixtureRequest, seeded: Path, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    return placed(request, seeded, tmp_path_factory, "without a server")


def placed(
    request: pytest.FixtureRequest,
    seeded: Path,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
) -> Place:
    root = tmp_path_factory.mktemp("place") / "workspace"
    shutil.copytree(seeded, root)
    given = ("REQUANT_", "PREFECT_", "MLFLOW_")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(given)}
    environment |= {"REQUANT_ACTOR": "ann", "PREFECT_API_URL": NOWHERE}
    if kind == "without a server":
        return Place(root, environment, None)
    server, auth = request.getfixturevalue("prefect_server")
    known = {"REQUANT_PREFECT_API_URL": server, "PREFECT_API_AUTH_STRING": auth}
    return Place(root, environment | known, server, tuple(auth.split(":", 1)))


@contextmanager
def started(place: Place, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a command, and return the file that it prints into."""
    out = place.root / "out.txt"
    with out.open("w") as file:
        process = subprocess.Popen(
            place.command(*arguments),
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            env=place.environment,
        )
        try:
            yield process, out
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def interrupted(place: Place, asked: signal.Signals) -> str:
    """Stop `maintain` while it works, and again at once; what it said on standard error."""
    with started(place, "maintain", "digits") as (process, out):
        deadline = time.monotonic() + 120
        while WORKING not in out.read_text():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(asked)
        process.send_signal(asked)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    return said


@pytest.mark.parametrize(
    "asked", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)]
)
def test_an_interruption_is_one_line_and_closes_the_intent(
    place: Place, asked: signal.Signals
) -> None:
    require_told(place, interrupted(place, asked))


def test_ctrl_c_without_a_server_is_told_alike(alone: Place) -> None:
    require_told(alone, interrupted(alone, signal.SIGINT))


def require_told(place: Place, said: str) -> None:
    """Assert that an interruption was one line, and that the ledger's intent is closed."""
    again = f"requant --workspace {place.root} maintain digits"
    line = (
        rf"requant: interrupted while {WORKING}: .*; nothing is lost: "
        rf"run `{again}` again to go on\n"
    )
    assert re.fullmatch(line, said), said
    assert [entry[0] for entry in place.ledger()][-2:] == ["intended", "finished"]
    assert place.ledger()[-1] == ("finished", "ann", "interrupted by ann")


def test_the_same_command_again_goes_on_to_a_champion(place: Place) -> None:
    code, text = run_on_terminal(place.command("maintain", "digits"), 40, place.environment, 240)
    assert code == 0, text
    assert "promoted" in text
    assert [entry[0] for entry in place.ledger()][-3:] == ["intended", "promoted", "finished"]
    assert {actor for _, actor, _ in place.ledger()} == {"ann"}


def test_an_answer_and_a_rollback_are_written_alike(place: Place) -> None:
    waits = place.read(
        "requantize", "digits", "--recipe", "int8-max", "--require-approval", "--reason", "try it"
    )
    assert waits["status"] == "awaiting-approval", waits["reason"]
    assert (
        place.read("approve", "digits", waits["version"], "--reason", "good")["answer"]
        == "promoted"
    )
    assert place.read("rollback", "digits", "--reason", "users complain")["version"] == "1"
    assert place.read("reconcile", "digits")["digits"]["outcome"] == "in-step"
    assert place.ledger()[-3:] == [
        ("approved", "ann", "good"),
        ("promoted", "ann", "good"),
        ("rolled-back", "ann", "users complain"),
    ]


def test_what_is_refused_ends_with_1_and_its_sentence(place: Place) -> None:
    done = place.run("rollback", "digits", "--reason", "once more")
    assert done.returncode == 1
    assert re.fullmatch(r"requant: .*no champion before it.*\n", done.stderr), done.stderr
    empty = place.run("rollback", "digits", "--reason", "")
    assert empty.returncode == 2
    assert re.fullmatch(r"requant: rollback: .*reason.*\n", empty.stderr), empty.stderr


def test_no_server_is_started_for_a_flow(place: Place) -> None:
    """A server would have made its log and its database there."""
    assert list((place.root / "prefect").glob("*.log")) == []
    assert list((place.root / "prefect").glob("*.db*")) == []


def test_prefect_shows_steps_and_outcome_at_info(place: Place) -> None:
    if place.server is None:
        return
    prefect = httpx.Client(base_url=place.server, auth=(place.auth[0], place.auth[1]))
    runs = prefect.post("/flow_runs/filter", json={"sort": "START_TIME_DESC"}).json()
    done = next(
        one for one in runs if one["name"] == "maintain-digits" and one["state_type"] == "COMPLETED"
    )
    assert done["state"]["message"].startswith("promoted: version 1")
    wanted = {"flow_run_id": {"any_": [done["id"]]}}
    lines = prefect.post("/logs/filter", json={"logs": wanted}).json()
    said = [one["message"] for one in lines if one["level"] == 20]
    assert "sampling the traffic window" in said
    assert done["state"]["message"] in said


def test_a_server_that_does_not_answer_is_an_error_and_nothing_is_run(place: Place) -> None:
    before = place.ledger()
    deaf = Place(place.root, place.environment | {"REQUANT_PREFECT_API_URL": NOWHERE}, NOWHERE)
    done = deaf.run("maintain", "digits")
    assert done.returncode == 2
    assert re.fullmatch(
        r"requant: Prefect does not answer at .*REQUANT_PREFECT_API_URL\n", done.stderr
    )
    assert place.ledger() == before


def test_a_server_that_wants_a_password_says_so(place: Place) -> None:
    if place.server is None:
        return
    unknown = {
        name: text for name, text in place.environment.items() if name != "PREFECT_API_AUTH_STRING"
    }
    done = Place(place.root, unknown, place.server).run("maintain", "digits")
    assert done.returncode == 2
    assert re.fullmatch(
        r"requant: Prefect at .* PREFECT_API_AUTH_STRING as user:password\n", done.stderr
    )


def test_a_process_ends_with_its_server_and_waits_for_nobody(tmp_path: Path) -> None:
    """End at once: Prefect's client would hand over log lines to a stopped server for minutes."""
    code = (
        "from infra.settings import use_workspace\n"
        f"chosen = use_workspace({str(tmp_path / 'workspace')!r})\n"
        "from flows.orchestration.runtime import orchestrator\n"
        "with orchestrator(chosen):\n"
        "    from flows.reconcile import reconcile\n"
        "    reconcile()\n"
        "print('stopped', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "stopped\n"
    assert process.wait(15) == 0
