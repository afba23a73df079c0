"""A real Prometheus scrapes the console, and answers every query that we ship."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import dashboards
from infra.settings import Settings
from infra.telemetry import METRICS, parse
from tasks.records import GateReport
from tests.integration.conftest import EXAMPLES, images, serve

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
FOLDER = Path(dashboards.__file__).parent
RULES = FOLDER / "prometheus" / "requant.rules.yml"
BOARDS = [
    json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((FOLDER / "grafana").glob("*.json"))
]
PANELS = [panel for board in BOARDS for panel in board["panels"] if panel["type"] != "row"]
VARIABLES = [
    variable
    for board in BOARDS
    for variable in board["templating"]["list"]
    if variable["type"] == "query"
]
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
def ran(loop: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Run a model to a champion, a kept window and a waiting candidate.

    A report of a safety head, which it has none of, is beside those of the candidate.
    """
    from flows.maintenance import maintenance
    from flows.measures import write_measures
    from flows.outcomes import Status
    from flows.reconcile import reconcile
    from flows.requantize import requantize
    from tasks.models.catalog import register
    from tasks.records import GateResult, Interval, Verdict

    folder = tmp_path_factory.mktemp("spec") / "digits"
    shutil.copytree(EXAMPLES / "digits", folder)
    spec = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump(spec | {"targets": ["onnxruntime-cpu"]}))
    register(folder / "model.yaml")
    serve(loop, "digits", 0, images(0.5, 1.0))
    assert maintenance("digits").status is Status.PROMOTED
    serve(loop, "digits", 1, images(0.5, 1.0, seed=1))
    assert maintenance("digits").status is Status.KEPT
    waiting = requantize("digits", recipe="int8-smooth", require_approval=True)
    assert waiting.status is Status.AWAITING_APPROVAL, waiting.reason
    flips = GateResult(
        "safety-flips", "all", True, Verdict.FAILED, Interval(3, 1, 5), 0, "at most", 60, "3 flips"
    )
    write_measures(
        "digits", reports=[*_judged(loop, waiting.release), GateReport("guard", (flips,))]
    )
    reconcile()
    return loop


def _judged(settings: Settings, release: str | None) -> list[GateReport]:
    """Return the golden reports of a release."""
    from tasks.validation.report import from_json

    assert release is not None
    bundle = settings.release("digits", release)
    names = [name for name in bundle.files if name.startswith("golden/")]
    return [from_json(bundle.file(name)) for name in names]


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """HOST:PORT of what a gateway counted while it served, growing with every scrape."""
    from infra.gateway.metrics import GatewayMetrics

    counted = GatewayMetrics()
    counted.serves("digits", "1")
    counted.refused("digits", False)
    counted.fell_back("digits", False)

    class Exposition(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            counted.answered("digits", 200, 0.004)
            counted.answered("digits", 500, 0.004)
            counted.ran("digits", 4, 0.003)
            counted.waits("digits", 1)
            counted.sampled("digits")
            counted.captured("digits", "stored")
            counted.steered("digits", "int8", "header", 0.004)
            counted.shadowed("digits", "compared")
            counted.compared("digits", "routine", [0.99])
            counted.guarded("digits", "prompt", "int8", "words")
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(counted.exposition())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Exposition)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def console(ran: Settings) -> Iterator[str]:
    """HOST:PORT of a console over the workspace."""
    from flows.orchestration.services import CONSOLE, started
    from infra.processes.supervision import listening_socket

    with started(ran, {CONSOLE: listening_socket(0, fixed=True)}) as (served,):
        yield served.address.removeprefix("http://")


@pytest.fixture(scope="module")
def prometheus(
    ran: Settings, console: str, gateway: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """Start a Prometheus with the configuration that we ship, but for address and intervals."""
    assert PROMETHEUS is not None
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(RULES, folder)
    (folder / "console.key").write_text(f"{ran.secret().key}\n")
    configuration = (FOLDER / "prometheus" / "prometheus.yml").read_text()
    for shipped, here in {
        "127.0.0.1:8400": console,
        "127.0.0.1:8500": gateway,
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
        eventually(lambda: _series(client, "requant_snapshot_timestamp_seconds[1m]", "matrix"))
        eventually(lambda: all(group["lastEvaluation"] > "1" for group in _groups(client)))
        eventually(lambda: _series(client, "requant:gateway_errors:ratio5m", "vector"))
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
    for annotation in (item for board in BOARDS for item in board["annotations"]["list"]):
        expression = _filled(annotation["expr"])
        _series(prometheus, expression, "vector")
        compared, _, limit = expression.rpartition(" > ")
        series = _series(prometheus, compared, "vector")
        assert limit == "0"
        assert "digits" in {one["metric"]["model"] for one in series}, "what it compares is there"


def test_every_alert_can_be_evaluated_and_the_right_ones_speak(prometheus: httpx.Client) -> None:
    rules = [rule for group in _groups(prometheus) for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == {
        rule["name"]: "ok" for rule in rules
    }
    speaking = {rule["name"] for rule in rules if rule.get("state", "inactive") != "inactive"}
    assert speaking == {
        "RequantTrafficSilent",  # the traffic is of January
        "RequantSchedulesUnknown",
        "RequantGatewayErrors",  # every other answer is one
    }


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
    return re.sub(r"\$(\w+)", lambda name: "1m" if name[1].startswith("__") else ".*", query)


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
