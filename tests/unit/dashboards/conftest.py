"""A console for tests, in front of one model whose ledger holds text of others."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from dashboards.console import actions
from dashboards.console.app import create_app
from dashboards.console.forms import form_id as signed_form
from flows import schedules
from flows.deployments import Triggered
from flows.orchestration.runtime import using
from flows.queries import runs, workers
from flows.queries.console.asking import Asked
from flows.queries.console.candidate import CalibrationFacts, CandidateView, Made
from flows.queries.console.overview import Precision
from flows.queries.runs import RunStep, RunView
from infra.access.guard import Guard
from infra.access.secret import WorkspaceSecret
from infra.access.sessions import Sessions
from infra.errors import Unavailable
from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body
from tasks.records import GateResult, Interval, Verdict

SECRET = WorkspaceSecret(b"a secret only for these tests...")
HERE = "http://127.0.0.1:8400"
OURS = {"Origin": HERE}
NOBODY = "http://127.0.0.1:9/api"  # the discard port: refused at once
HOSTILE = "<script>alert('traffic')</script>"
ESCAPED = "&lt;script&gt;alert(&#39;traffic&#39;)&lt;/script&gt;"
SPEC = """
version: 1
name: tiny
source: .
task: image-classification
input: {shape: [1, 8, 8]}
data: {traffic: t.parquet, calibration: c.parquet}
golden: {cases: g.parquet}
budgets: {latency_ratio: 1.0, size_ratio: 0.5, quality: [{metric: flips, at_most: 0.05}]}
targets: [onnxruntime-cpu]
schedule: {slug: nightly, cron: "0 3 * * *", timezone: UTC}
"""
GATE = GateResult(
    metric="flips",
    group=f"domain={HOSTILE}",
    binding=True,
    verdict=Verdict.FAILED,
    estimate=Interval(0.07, 0.06, 0.08),
    budget=0.05,
    direction="at most",
    count=400,
    reason=f"flips of {HOSTILE}: 0.07",
)
MADE = CandidateView(
    model="tiny",
    version="2",
    release="r" * 64,
    precision=Precision("int8-max", "INT8", 0.875, {}),
    verdicts={},
    gates=(),
    champion="1",
    calibration=CalibrationFacts("c" * 64, 256, 620, "", "", (HOSTILE,), {HOSTILE: 1}, {}),
    lineage=(Made("release", HOSTILE, "r" * 64),),
    front=(),
    front_axes=("", ""),
)
RUN = RunView(
    run_id="1b4e28ba-2fa1-41d2-883f-0016d3cca427",
    name="requantize-tiny",
    model="tiny",
    state="Running",
    message="",
    started="2026-01-05T08:00:00+00:00",
    finished=False,
    fraction=0.25,
    doing="observing 256 requests",
    steps=(RunStep("sample-window-0", "Completed", 1.25),),
)


@pytest.fixture
def known(workspace: Settings) -> Settings:
    """Fill a workspace with one registered model, whose ledger holds text of others."""
    store = workspace.store()
    store.put("models/tiny/current", json.dumps({"version": 1, "digest": "d" * 64}).encode())
    store.put(f"models/tiny/{'d' * 64}/spec.yaml", SPEC.encode())
    details = {"window": "w" * 64, "action": "keep", "lenses": {"input": "fine"}}
    journal.commit(
        "tiny",
        lambda _: body(EntryKind.DECIDED, actor="maintenance", reason=HOSTILE, details=details),
    )
    asked = body(
        EntryKind.APPROVAL_REQUESTED,
        actor=HOSTILE,
        reason="look at it",
        version="2",
        release="r" * 64,
    )
    journal.commit("tiny", lambda _: asked)
    return workspace


@pytest.fixture
def console(known: Settings) -> FastAPI:
    """Make the application over the workspace."""
    return create_app(SECRET)


@pytest.fixture
def stranger(console: FastAPI) -> Iterator[TestClient]:
    """Open a browser that has not logged in; no Prefect answers."""
    guarded = Guard(console, "console", SECRET)
    with using(NOBODY), TestClient(guarded, base_url=HERE, follow_redirects=False) as client:
        yield client


@pytest.fixture
def browser(console: FastAPI, stranger: TestClient, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Open a browser that has logged in; asking Prefect fails at once."""

    def refused(*_: Any) -> None:
        raise Unavailable("Prefect did not answer: see whether its server runs")

    monkeypatch.setattr(schedules, "upcoming", refused)
    for name in ("recent_runs", "read_run"):
        monkeypatch.setattr(runs, name, refused)
    console.state.upcoming = Asked(lambda: schedules.upcoming())
    console.state.runs = Asked(lambda: runs.recent_runs())
    monkeypatch.setattr(workers, "known_workers", refused)
    log_in(stranger)
    return stranger


def log_in(browser: TestClient, person: str = "Ada") -> None:
    """Follow the link that `requant up` prints; from then on, pages' origin is the console's."""
    browser.get("/", params={"login": Sessions(SECRET).link(person)})
    browser.headers["Origin"] = HERE


def own_form(purpose: str) -> str:
    return signed_form(SECRET, purpose, "once")


@pytest.fixture
def triggered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record what is asked of Prefect, and start whatever is asked for."""
    asked: list[tuple[Any, ...]] = []

    def trigger(
        flow: str,
        parameters: Mapping[str, Any],
        *,
        actor: str,
        key: str | None,
        deployment: str | None,
    ) -> Triggered:
        asked.append((f"{flow}/{deployment or flow}", dict(parameters), key, actor))
        return Triggered(RUN.run_id, "run")

    monkeypatch.setattr(actions, "trigger", trigger)
    return asked
