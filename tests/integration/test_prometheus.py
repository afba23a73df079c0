"""A real Prometheus scrapes the console, and answers every query that we ship."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import dashboards
from infra.settings import Settings
from infra.telemetry import METRICS, parse
from tests.integration.conftest import EXAMPLES, images, serve

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
FOLDER = Path(dashboards.__file__).parent
RULES = FOLDER / "prometheus" / "requant.rules.yml"
DASHBOARD = json.loads((FOLDER / "grafana" / "requant.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
WITHOUT_DATA = {"requant_schedule_overdue_seconds"}
"""No schedule is served here: the series is absent, and an alert says so."""

pytestmark = [
    pytest.mark.timeout(420),
    pytest.mark.skipif(
        PROMETHEUS is None or PROMTOOL is None,
        reason="no prometheus: bash tests/services/packages.sh installs it",
    ),
]


@contextmanager
def process(*command: str, log: Path) -> Iterator[None]:
    """Start a process that is ended by its id."""
    with log.open("wb") as out:
        started = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield
    finally:
        started.terminate()
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def eventually(ask: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the first answer that is not empty."""
    deadline, refusal = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            if answer := ask():
                return answer
        except httpx.HTTPError as error:
            refusal = error
        time.sleep(0.3)
    raise AssertionError(f"no answer within {seconds} s") from refusal


@pytest.fixture(scope="module")
def ran(loop: Settings) -> Settings:
    """Run two models: one to a champion, a kept window and a waiting candidate.

    The other, with a safety head, was refused.
    """
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from flows.reconcile import reconcile
    from flows.requantize import requantize
    from tasks.models.catalog import register
    from tasks.models.corpus import read_corpus

    register(EXAMPLES / "digits" / "model.yaml")
    serve(loop, "digits", 0, images(0.5, 1.0))
    assert maintenance("digits").status is Status.PROMOTED
    serve(loop, "digits", 1, images(0.5, 1.0, seed=1))
    assert maintenance("digits").status is Status.KEPT
    waiting = requantize("digits", recipe="int8-smooth", require_approval=True)
    assert waiting.status is Status.AWAITING_APPROVAL, waiting.reason
    register(EXAMPLES / "minilm" / "model.yaml")
    texts = (EXAMPLES / "minilm" / "traffic.parquet").read_bytes()
    serve(loop, "minilm", 0, read_corpus(texts, where="traffic")[:300])
    assert requantize("minilm", recipe="int8-max").status is Status.REFUSED
    reconcile()
    return loop


@pytest.fixture(scope="module")
def console(ran: Settings) -> Iterator[str]:
    """HOST:PORT of a console over the workspace."""
    from flows.orchestration.services import CONSOLE, started
    from infra.processes.supervision import listening_socket

    with started(ran, {CONSOLE: listening_socket(0, fixed=True)}) as (served,):
        yield served.address.removeprefix("http://")


@pytest.fixture(scope="module")
def prometheus(
    ran: Settings, console: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """Start a Prometheus with the configuration that we ship, but for address and intervals."""
    assert PROMETHEUS is not None
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(RULES, folder)
    (folder / "console.key").write_text(f"{ran.secret().key}\n")
    configuration = (FOLDER / "prometheus" / "prometheus.yml").read_text()
    for shipped, here in {
        "127.0.0.1:8400": console,
        "scrape_interval: 30s": "scrape_interval: 1s",
        "evaluation_interval: 1m": "evaluation_interval: 1s",
    }.items():
        assert shipped in configuration
        configuration = configuration.replace(shipped, here)
    (folder / "prometheus.yml").write_text(configuration)
    address = f"127.0.0.1:{_free_port()}"
    command = (
        PROMETHEUS,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    )
    with (
        process(*command, log=folder / "log"),
        httpx.Client(base_url=f"http://{address}/api/v1") as client,
    ):
        eventually(lambda: client.get(f"http://{address}/-/ready").is_success)
        eventually(
            lambda: len(_series(client, "requant_snapshot_timestamp_seconds[1m]", "matrix")) > 1
        )
        eventually(lambda: _groups(client)[0]["lastEvaluation"] > "1")
        time.sleep(3)  # an increase needs scrapes to increase between
        yield client


def test_every_metric_is_written_by_the_loop_or_computed_for_the_scrape(
    ran: Settings, console: str
) -> None:
    key = {"Authorization": f"Bearer {ran.secret().key}"}
    page = httpx.get(f"http://{console}/metrics", headers=key).text
    assert {sample.metric for sample in parse(page)} == set(METRICS) - WITHOUT_DATA


def test_peak_memory_is_the_measured_bytes_that_the_gate_was_judged_by(
    ran: Settings, prometheus: httpx.Client
) -> None:
    (found,) = [
        float(one["value"][1])
        for one in _series(prometheus, "requant_peak_memory_bytes", "vector")
        if one["metric"]["model"] == "digits" and one["metric"]["target"] == "onnxruntime-cpu"
    ]
    from tasks.promotion import journal, ledger

    waiting = ledger.challenger(journal.read("digits"))
    assert waiting is not None
    assert waiting.release is not None
    report = json.loads(ran.release("digits", waiting.release).file("golden/onnxruntime-cpu.json"))
    (gate,) = [gate for gate in report["gates"] if gate["metric"] == "peak-memory-ratio"]
    assert found == gate["measured"] > 1e6
    assert f"{found:,.0f}" in gate["reason"]


@pytest.mark.parametrize(
    ("title", "target"),
    [(panel["title"], target) for panel in PANELS for target in panel["targets"]],
    ids=lambda value: value if isinstance(value, str) else value["refId"],
)
def test_every_query_of_every_panel_is_answered(
    prometheus: httpx.Client, title: str, target: dict[str, Any]
) -> None:
    query = _filled(target["expr"])
    if target.get("instant"):
        found = _series(prometheus, query, "vector")
    else:
        now = time.time()
        answer = prometheus.get(
            "/query_range", params={"query": query, "start": now - 60, "end": now, "step": 1}
        )
        found = _answered(answer)["result"]
    assert bool(found) is not _is_without_data(target["expr"]), title
    named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    assert all(named <= set(series["metric"]) for series in found), title


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: str(variable["name"]))
def test_every_variable_offers_something(
    prometheus: httpx.Client, variable: dict[str, Any]
) -> None:
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
    assert asked is not None
    answer = prometheus.get(f"/label/{asked[2]}/values", params={"match[]": _filled(asked[1])})
    assert _answered(answer)


def test_every_annotation_can_be_evaluated(prometheus: httpx.Client) -> None:
    for annotation in DASHBOARD["annotations"]["list"]:
        expression = _filled(annotation["expr"])
        _series(prometheus, expression, "vector")
        compared, _, limit = expression.rpartition(" > ")
        series = _series(prometheus, compared, "vector")
        assert limit == "0"
        assert "digits" in {one["metric"]["model"] for one in series}, "what it compares is there"


def test_every_alert_can_be_evaluated_and_the_right_ones_speak(prometheus: httpx.Client) -> None:
    (group,) = _groups(prometheus)
    assert {rule["name"]: rule["health"] for rule in group["rules"]} == {
        rule["name"]: "ok" for rule in group["rules"]
    }
    speaking = {rule["name"] for rule in group["rules"] if rule["state"] != "inactive"}
    assert speaking == {
        "RequantTrafficSilent",
        "RequantSchedulesUnknown",
    }  # the traffic is of January


def test_the_alerts_fire_on_what_they_say_and_on_nothing_else() -> None:
    assert PROMTOOL is not None
    for command in (
        ("check", "rules", RULES),
        ("test", "rules", RULES.with_name("requant.rules.test.yml")),
    ):
        done = subprocess.run([PROMTOOL, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_that_we_ship_is_one(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    for name in ("prometheus.yml", RULES.name):
        shutil.copy(FOLDER / "prometheus" / name, tmp_path)
    (tmp_path / "console.key").write_text("a key")
    done = subprocess.run(
        [PROMTOOL, "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _free_port() -> int:
    from infra.processes.supervision import listening_socket, port_of

    with listening_socket(0, fixed=True) as opened:
        return port_of(opened)


def _filled(query: str) -> str:
    """Fill the query in with all of every variable chosen, as Grafana does."""
    return re.sub(r"\$(\w+)", lambda name: "1m" if name[1] == "__interval" else ".*", query)


def _is_without_data(query: str) -> bool:
    return bool(set(re.findall(r"\brequant_\w+", query)) & WITHOUT_DATA)


def _series(client: httpx.Client, query: str, kind: str) -> list[dict[str, Any]]:
    data = _answered(client.get("/query", params={"query": query}))
    assert data["resultType"] == kind
    return list(data["result"])


def _groups(client: httpx.Client) -> list[dict[str, Any]]:
    return list(_answered(client.get("/rules"))["groups"])


def _answered(response: httpx.Response) -> Any:
    document = response.json()
    assert document["status"] == "success", document
    return document["data"]
