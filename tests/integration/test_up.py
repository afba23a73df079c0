"""`requant up`: scheduled runs happen by themselves, nobody gets in, nothing is left behind."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from infra.settings import Settings
from tests.integration.conftest import EXAMPLES, images, serve

pytestmark = pytest.mark.timeout(400)
TITLES = ("console", "Prefect", "MLflow", "Evidently", "Gateway")
PORTS = {
    f"REQUANT_{name}_PORT": "0" for name in ("PREFECT", "MLFLOW", "CONSOLE", "EVIDENTLY", "GATEWAY")
}
SEEN_S = 240
"""Seconds within which what a machine does by itself must be seen, however busy it is."""


@dataclass(frozen=True)
class Up:
    """A running `requant up`."""

    process: subprocess.Popen[bytes]
    workspace: Settings
    output: Path

    @property
    def addresses(self) -> dict[str, str]:
        """Title -> address."""
        return dict(
            re.findall(
                rf"^({'|'.join(TITLES)})\s+(http://127\.0\.0\.1:\d+)", self.output.read_text(), re.M
            )
        )

    @property
    def link(self) -> str:
        """What opens the console."""
        printed = re.search(r"http://\S+login=\S+", self.output.read_text())
        assert printed
        return printed[0]

    def ask(self, path: str, **document: Any) -> Any:
        """Ask Prefect's API with the key."""
        answer = httpx.post(
            f"{self.addresses['Prefect']}/api/{path}", json=document, headers=key(self.workspace)
        )
        return answer.raise_for_status().json()


def key(workspace: Settings) -> dict[str, str]:
    return {"Authorization": f"Bearer {workspace.secret().key}"}


@contextmanager
def running(workspace: Settings, output: Path, **environment: str) -> Iterator[Up]:
    chosen = {
        **os.environ,
        **PORTS,
        "REQUANT_WORKSPACE": str(workspace.root),
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
    for name in ("PREFECT_API_URL", "REQUANT_PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        chosen.pop(name, None)
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up"],
            stdout=out,
            stderr=out,
            env=chosen,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_IGN
            ),  # as for a shell's background job
        )
        try:
            until(lambda: "Ctrl-C" in output.read_text() or process.poll() is not None)
            assert process.poll() is None, output.read_text()
            yield Up(process, workspace, output)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(90)


def until(condition: Any, seconds: float = SEEN_S) -> Any:
    """Wait for a true answer and return it; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s")


def spec(folder: Path, schedule: str, name: str = "digits") -> Path:
    """Write the shipped digits under another name and schedule."""
    shutil.copytree(EXAMPLES / "digits", folder, dirs_exist_ok=True)
    text = (folder / "model.yaml").read_text()
    text = re.sub(r"^schedule:.*$", f"schedule: {schedule}", text, flags=re.M)
    (folder / "model.yaml").write_text(re.sub(r"^name:.*$", f"name: {name}", text, flags=re.M))
    return folder / "model.yaml"


@pytest.fixture(scope="module")
def up(shared_workspace: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Start everything in a workspace with a model that is maintained every few seconds."""
    from tasks.models.catalog import register

    folder = tmp_path_factory.mktemp("up")
    register(spec(folder / "often", "{slug: often, interval: 10}"))
    serve(shared_workspace, "digits", 0, images(0.5, 1.0))
    with running(shared_workspace, folder / "up.log") as started:
        visit_what_sleeps(started)
        yield started


@pytest.fixture(scope="module")
def calm(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Up:
    """Return the same, once its model is maintained once a day: each run takes seconds of CPU."""
    from tasks.models.catalog import register

    register(spec(tmp_path_factory.mktemp("calm"), "{slug: seldom, interval: 86400}"))
    return up


def visit_what_sleeps(up: Up) -> None:
    """Visit what nothing rests on: it starts then, and answers whoever came first."""
    for title in ("MLflow", "Evidently"):
        assert parts_of(up, title.lower()) == []
        visit(up, title)
        assert len(parts_of(up, title.lower())) == 1


def visit(up: Up, title: str) -> None:
    address, known = up.addresses[title], key(up.workspace)
    assert httpx.get(address, headers=known, timeout=SEEN_S).status_code == 200


def parts_of(up: Up, name: str) -> list[psutil.Process]:
    """Return the processes that serve a service."""
    family = psutil.Process(up.process.pid).children(recursive=True)
    return [part for part in family if name == part.name() or name in part.cmdline()]


def runs(up: Up, model: str = "digits") -> list[Mapping[str, Any]]:
    """Return a model's scheduled maintenance runs, as the server has them."""
    deployed = up.ask("deployments/filter", deployments={"name": {"any_": [model]}})
    ids = [one["id"] for one in deployed]
    found = up.ask("flow_runs/filter", flow_runs={"deployment_id": {"any_": ids}}) if ids else []
    return [one for one in found if one["auto_scheduled"]]


def test_scheduled_runs_are_created_run_and_end_with_nobody_typing(up: Up) -> None:
    from tasks.promotion import journal
    from tasks.promotion.ledger import EntryKind

    until(lambda: [one for one in runs(up) if one["state_name"] == "Completed"])
    promoted = until(
        lambda: [one for one in journal.read("digits") if one.kind is EntryKind.PROMOTED]
    )
    assert promoted[0].actor == "schedule"
    assert (up.workspace.root / "metrics" / "digits.prom").exists()
    decided = [one for one in journal.read("digits") if one.kind is EntryKind.DECIDED]
    assert all(one.actor == "schedule" for one in decided)


def test_prefect_shows_what_a_run_did_line_by_line(up: Up) -> None:
    (newest, *_) = until(lambda: [one for one in runs(up) if one["state_name"] == "Completed"])
    wanted = {"flow_run_id": {"any_": [newest["id"]]}, "level": {"ge_": 20}}
    lines = until(lambda: [one["message"] for one in up.ask("logs/filter", logs=wanted)])
    assert len(lines) >= 2, lines
    assert newest["state"]["message"], "the outcome, in a sentence"
    assert set(newest["tags"]) >= {"requant", "digits"}


def test_the_console_shows_the_next_run_that_the_server_has(calm: Up) -> None:
    with httpx.Client(follow_redirects=True) as browser:
        browser.get(calm.link).raise_for_status()

        def shown_and_there() -> bool:
            """Whether the page names a run of the server; its answer may be ten seconds old."""
            page = browser.get(f"{calm.addresses['console']}/models/digits").text
            shown = re.search(r'aria-label="Schedule">.*?<time datetime="([^"]+)"', page, re.S)
            expected = {one["expected_start_time"].replace("Z", "+00:00") for one in runs(calm)}
            return shown is not None and shown[1] in expected

        assert until(shown_and_there), "a run that exists on the server"


def test_the_doctor_finds_what_runs_and_its_next_runs(calm: Up) -> None:
    chosen = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API_")
    }
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "doctor", "--json"],
        env={**chosen, "REQUANT_WORKSPACE": str(calm.workspace.root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    checks = {one["what"]: one for one in json.loads(done.stdout)}
    assert checks["Prefect"] == {
        "what": "Prefect",
        "state": "fine",
        "found": f"{calm.addresses['Prefect']}/api",
        "mend": "",
    }
    assert "digits" in checks["schedules"]["found"], checks["schedules"]


def test_a_model_registered_meanwhile_is_scheduled_without_a_restart(
    calm: Up, tmp_path: Path
) -> None:
    from tasks.models.catalog import register

    register(
        spec(tmp_path, "{slug: weekly, cron: '0 3 * * 1', timezone: Europe/Berlin}", name="later")
    )
    assert until(lambda: runs(calm, "later"))
    register(spec(tmp_path, "{slug: hourly, interval: 3600}", name="later"))

    def schedules() -> list[str]:
        (deployed,) = calm.ask("deployments/filter", deployments={"name": {"any_": ["later"]}})
        return [one["slug"] for one in deployed["schedules"]]

    assert until(lambda: schedules() == ["hourly"])
    assert until(lambda: runs(calm, "later"))


def test_prefects_forms_offer_the_models_and_recipes_there_are(calm: Up) -> None:
    (deployed,) = calm.ask("deployments/filter", deployments={"name": {"any_": ["requantize"]}})
    fields = deployed["parameter_openapi_schema"]["properties"]
    assert "digits" in fields["model"]["enum"]
    (recipes,) = [one["enum"] for one in fields["recipe"]["anyOf"] if "enum" in one]
    assert {"int8-smooth", "full-precision"} <= set(recipes)
    assert "actor" not in fields
    names = [one["name"] for one in calm.ask("deployments/filter")]
    assert len(names) == len(set(names))


PATHS = {
    "console": ("GET", "/models/digits"),
    "Prefect": ("POST", "/api/deployments/filter"),
    "MLflow": ("POST", "/api/2.0/mlflow/registered-models/create"),
    "Evidently": ("POST", "/api/projects"),
    "Gateway": ("POST", "/v2/repository/index"),
}


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("root", [True, False])
def test_nobody_else_gets_in_at_any_port(calm: Up, title: str, root: bool) -> None:
    method, path = ("GET", "/") if root else PATHS[title]
    address, known = calm.addresses[title] + path, key(calm.workspace)
    assert httpx.request(method, address).status_code == 401
    assert (
        httpx.request(
            method, address, headers={**known, "Authorization": "Basic cmVxdWFudDp4"}
        ).status_code
        == 401
    )
    for origin in (
        "http://evil.example",
        calm.addresses["console" if title != "console" else "MLflow"],
        "null",
    ):
        assert (
            httpx.request(method, address, headers={**known, "Origin": origin}).status_code == 403
        )
    assert (
        httpx.request(method, address, headers={**known, "Host": "evil.example"}).status_code == 421
    )


def test_the_session_of_the_consoles_link_opens_the_neighbours(calm: Up) -> None:
    with httpx.Client(follow_redirects=True) as browser:
        for title in TITLES[1:]:
            assert browser.get(calm.addresses[title]).status_code == 401
        browser.get(calm.link).raise_for_status()
        for title in TITLES[1:]:
            assert browser.get(calm.addresses[title]).status_code == 200
        ours, flows = {"Origin": calm.addresses["Prefect"]}, "/api/flows/filter"
        filtered = browser.post(f"{calm.addresses['Prefect']}{flows}", json={}, headers=ours)
        assert filtered.status_code == 200
        assert browser.get(f"{calm.addresses['Prefect']}/ui-settings").json()["auth"] is None


def test_a_session_opens_pages_and_no_shell(calm: Up) -> None:
    """MLflow brings an assistant that runs commands on the host of its server."""
    assistant = f"{calm.addresses['MLflow']}/ajax-api/3.0/mlflow/assistant"
    for path in ("", "/message", "/config", "/providers/anything"):
        for method in ("GET", "POST", "PUT"):
            assert (
                httpx.request(method, assistant + path, headers=key(calm.workspace)).status_code
                == 403
            )


def test_a_port_that_was_not_asked_for_is_not_called_taken(calm: Up) -> None:
    assert "taken" not in calm.output.read_text()


def test_everything_listens_on_this_machine_only(calm: Up) -> None:
    family = [
        psutil.Process(calm.process.pid),
        *psutil.Process(calm.process.pid).children(recursive=True),
    ]
    listening = []
    for process in family:
        try:
            listening += [
                one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN
            ]
        except psutil.NoSuchProcess:
            continue
    assert len(listening) >= len(TITLES)
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}


def test_nobody_else_reads_the_workspace_and_logs_hold_no_secret(calm: Up) -> None:
    httpx.get(calm.link)
    loose = [
        path
        for path in calm.workspace.root.rglob("*")
        if path.exists() and path.stat().st_mode & 0o077
    ]
    assert loose == []
    assert calm.workspace.root.stat().st_mode & 0o077 == 0
    secret, token = calm.workspace.secret(), calm.link.partition("login=")[2]
    logs = list((calm.workspace.root / "logs").glob("*.log"))
    assert logs
    for path in logs:
        assert not {
            one for one in (secret.key, token, secret.value.hex()) if one in path.read_text()
        }


def test_an_order_names_who_authenticated_and_nothing_else_can(calm: Up) -> None:
    """A forged note, a note of another run, and a parameter of that name prove nothing."""
    from prefect.client.orchestration import get_client

    from flows.deployments import trigger
    from flows.orchestration.orders import signed_order
    from flows.orchestration.runtime import using
    from tasks.promotion import journal
    from tasks.promotion.ledger import EntryKind

    asked = {"model": "digits", "recipe": "int8-max"}
    with (
        using(f"{calm.addresses['Prefect']}/api", calm.workspace.secret().basic),
        get_client(sync_client=True) as client,
    ):
        hers = trigger("requantize", {**asked, "reason": "hers"}, actor="Ada", key="one")
        until(
            lambda: calm.ask("flow_runs/filter", flow_runs={"id": {"any_": [hers.run_id]}})[0][
                "end_time"
            ]
        )
        assert intended(journal.read("digits"), EntryKind.INTENDED, "hers")
        copied = signed_order("Ada", "requantize", "one", {**asked, "reason": "hers"})
        deployment = client.read_deployment_by_name("requantize/requantize")
        for parameters in (
            {**asked, "reason": "copied"},
            {**asked, "reason": "named", "actor": "Eve"},
        ):
            client.create_flow_run_from_deployment(
                deployment.id, parameters=parameters, context=copied
            )
        until(lambda: intended(journal.read("digits"), EntryKind.INTENDED, "copied"))
    actors = {
        one.reason: one.actor for one in journal.read("digits") if one.kind is EntryKind.INTENDED
    }
    assert actors["hers"] == "Ada"
    assert actors["copied"] == "prefect"
    assert "Eve" not in {one.actor for one in journal.read("digits")}


def intended(entries: Any, kind: Any, reason: str) -> Any:
    return [one for one in entries if one.kind is kind and one.reason == reason]


def test_a_second_one_in_the_same_workspace_is_refused(calm: Up) -> None:
    again = subprocess.run(
        [sys.executable, "-m", "flows.cli", "up"],
        env={**os.environ, "REQUANT_WORKSPACE": str(calm.workspace.root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (again.returncode, again.stdout) == (1, "")
    assert "already runs in" in again.stderr
    assert "requant link" in again.stderr


def test_link_prints_a_fresh_link_for_another_person(calm: Up) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "flows.cli", "link", "--for", "Ada"],
        env={**os.environ, "REQUANT_WORKSPACE": str(calm.workspace.root), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    address = re.search(r"http://\S+", printed.stdout)
    assert address, printed.stderr
    with httpx.Client(follow_redirects=True) as browser:
        page = browser.get(address[0].replace("/?", "/models/digits?"))
        assert "asked for by <b>Ada</b>" in page.text


def test_ctrl_c_stops_everything(calm: Up) -> None:
    """The last test on the shared one."""
    family, addresses = psutil.Process(calm.process.pid).children(recursive=True), calm.addresses
    calm.process.send_signal(signal.SIGINT)
    assert calm.process.wait(90) == 0, calm.output.read_text()
    assert "Traceback" not in calm.output.read_text()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    for address in addresses.values():
        with pytest.raises(httpx.TransportError):
            httpx.get(address)


@pytest.mark.soak
def test_the_loop_never_runs_without_prefect(workspace: Settings, tmp_path: Path) -> None:
    """The same path as a page's second end, which the other tests take."""
    with running(workspace, tmp_path / "up.log") as up:
        parts_of(up, "prefect")[0].kill()
        assert up.process.wait(90) == 2
    assert "prefect stopped (exit -9), so everything did" in up.output.read_text()


def answers(address: str, workspace: Settings) -> bool:
    try:
        return httpx.get(address, headers=key(workspace)).is_success
    except httpx.TransportError:
        return False


def test_a_port_that_is_taken_is_left_alone(workspace: Settings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = str(foreign.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "flows.cli", "up"],
            env={
                **os.environ,
                **PORTS,
                "REQUANT_WORKSPACE": str(workspace.root),
                "REQUANT_MLFLOW_PORT": port,
            },
            capture_output=True,
            text=True,
            timeout=90,
        )
    assert ended.returncode == 2
    assert f"the port {port} of 127.0.0.1 cannot be had" in ended.stderr
    assert "http://" not in ended.stdout
