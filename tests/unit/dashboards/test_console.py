"""The console: who may use it, what it refuses, and that text of others takes no effect."""

import json
import os
import re
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dashboards.console.forms import form_id as signed_form
from dashboards.console.pages.runs import STOP_POLLING
from flows import schedules
from flows.orchestration.services import announced
from flows.queries import runs, versions
from flows.queries.console import candidate
from flows.queries.versions import GateRow, VersionView
from flows.schedules import Upcoming
from infra.access.secret import WorkspaceSecret
from infra.errors import BadInput, NotFound, Refused, RequantError, Tampered, Unavailable
from infra.settings import Settings
from infra.telemetry import MetricSample, parse, write_snapshot
from tasks.records import GateReport, Interval, Verdict
from tasks.traffic.sources import Problem, SourceIntake, write_last
from tests.unit.dashboards.conftest import (
    ESCAPED,
    GATE,
    HOSTILE,
    MADE,
    NOBODY,
    OURS,
    RUN,
    SECRET,
    SPEC,
    log_in,
    own_form,
)


def form_id(browser: TestClient, action: str) -> str:
    page = "/models/tiny/requantize" if action == "requantize" else "/models/tiny"
    found = re.search(
        rf'action="/models/tiny/{action}"[^>]*>.*?name="form_id" value="([^"]+)"',
        browser.get(page).text,
        re.S,
    )
    assert found
    return found[1]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/models/tiny",
        "/runs",
        "/metrics",
        "/static/console.css",
        "/reports/tiny/x/lenses.html",
        "/nowhere",
    ],
)
def test_nothing_answers_a_stranger(stranger: TestClient, path: str) -> None:
    for wrong in (
        {},
        {"login": ""},
        {"login": "wrong"},
        {"login": "lëtmein"},
        {"token": SECRET.key},
    ):
        answer = stranger.get(path, params=wrong)
        assert answer.status_code == 401
        assert "requant link" in answer.text
        assert "set-cookie" not in answer.headers


def test_a_stranger_starts_nothing(stranger: TestClient, triggered: list[tuple[Any, ...]]) -> None:
    sent = {"form_id": own_form("maintenance tiny")}
    assert stranger.post("/models/tiny/maintain", data=sent, headers=OURS).status_code == 401
    assert triggered == []


def test_pages_run_no_script_but_their_own(browser: TestClient) -> None:
    for path in ("/", "/models/tiny", "/runs", "/nowhere"):
        answer = browser.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=)|\son\w+=|style=", answer.text)


def test_a_form_starts_the_schedules_own_deployment_once(
    browser: TestClient, triggered: list[tuple[Any, ...]]
) -> None:
    once = form_id(browser, "requantize")
    sent = {"form_id": once, "reason": "try", "recipe": "int8-max", "require_approval": "true"}
    answers = [browser.post("/models/tiny/requantize", data=sent) for _ in range(2)]
    assert [one.headers["location"] for one in answers] == [f"/runs/{RUN.run_id}"] * 2
    wanted = {"model": "tiny", "recipe": "int8-max", "reason": "try", "require_approval": True}
    key = f"console-{once.partition('.')[0]}"
    assert triggered == [("requantize/requantize", wanted, key, "Ada")] * 2
    assert form_id(browser, "requantize") != once
    assert "asked for by <b>Ada</b>" in browser.get("/models/tiny").text


def test_nobody_gives_another_name_than_the_own(
    browser: TestClient, triggered: list[tuple[Any, ...]]
) -> None:
    sent = {"form_id": form_id(browser, "maintain"), "actor": "Eve"}
    assert browser.post("/models/tiny/maintain", data=sent).status_code == 303
    ((_, parameters, _, actor),) = triggered
    assert (parameters, actor) == ({"model": "tiny"}, "Ada")


def test_every_action_reaches_its_flow(
    browser: TestClient, triggered: list[tuple[Any, ...]]
) -> None:
    given = {"reason": "why not"}
    for action, fields in (
        ("maintain", {}),
        ("answer", {"version": "2", "verdict": "approve"}),
        ("answer", {"version": "2", "verdict": "reject"}),
    ):
        sent = {**given, **fields, "form_id": form_id(browser, action)}
        assert browser.post(f"/models/tiny/{action}", data=sent).status_code == 303
    own = own_form("rollback tiny")
    assert (
        browser.post("/models/tiny/rollback", data={**given, "to": "", "form_id": own}).status_code
        == 303
    )
    assert [(one[0], {k: v for k, v in one[1].items() if k != "model"}) for one in triggered] == [
        ("maintenance/tiny", {}),
        ("approval/approval", {"version": "2", "approve": True, "reason": "why not"}),
        ("approval/approval", {"version": "2", "approve": False, "reason": "why not"}),
        ("rollback/rollback", {"to": None, "reason": "why not"}),
    ]


@pytest.mark.parametrize(
    "forged",
    [
        "anything",
        "x.y",
        "é.é",
        signed_form(WorkspaceSecret(b"another"), "requantize tiny", "once"),
        own_form("rollback tiny"),
        own_form("requantize other"),
    ],
    ids=["text", "no digest", "not ASCII", "another secret", "another action", "another model"],
)
def test_a_form_of_another_site_action_or_model_is_refused(
    browser: TestClient, triggered: list[tuple[Any, ...]], forged: str
) -> None:
    sent = {"form_id": forged, "reason": "because"}
    answer = browser.post("/models/tiny/requantize", data=sent)
    assert answer.status_code == 403
    assert "does not come from this console" in answer.text
    assert triggered == []


@pytest.mark.parametrize(
    "fields",
    [
        {"reason": " "},
        {},
        {"reason": "r" * 501},
        {"reason": "r", "recipe": "int9"},
    ],
)
def test_a_form_without_reason_or_known_recipe_is_refused(
    browser: TestClient, triggered: list[tuple[Any, ...]], fields: dict[str, str]
) -> None:
    answer = browser.post(
        "/models/tiny/requantize", data={**fields, "form_id": form_id(browser, "requantize")}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/html; charset=utf-8")
    assert triggered == []


def test_what_is_not_there_is_a_friendly_404(browser: TestClient) -> None:
    own = {"form_id": own_form("maintenance nope")}
    for answer in (
        browser.get("/nowhere"),
        browser.get("/models/nope"),
        browser.get(f"/models/{HOSTILE}"),
        browser.get("/reports/tiny/none/lenses.html"),
        browser.post("/models/nope/maintain", data=own),
    ):
        assert answer.status_code == 404
        assert 'role="alert"' in answer.text
        assert "<script>" not in answer.text
    assert "no model is called" in browser.get("/models/nope").text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no such thing"), 404),
        (Refused("no"), 409),
        (Tampered("bytes differ"), 409),
        (BadInput("wrong"), 400),
        (Unavailable("silence"), 503),
        (RequantError("odd"), 500),
    ],
)
def test_every_error_is_a_page_with_its_sentence(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch, error: RequantError, status: int
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(versions, "one_version", fail)
    answer = browser.get("/models/tiny/versions/1")
    assert answer.status_code == status
    assert str(error) in answer.text


def test_without_prefect_the_ledger_is_still_shown(stranger: TestClient) -> None:
    """The real client against a port where nobody listens."""
    log_in(stranger)
    for path in ("/", "/models/tiny"):
        answer = stranger.get(path)
        assert answer.status_code == 200
        assert "Prefect did not tell its schedules" in answer.text
        assert "keep" in answer.text
        assert "unknown" in answer.text
    assert "Prefect did not answer" in stranger.get("/runs").text
    run = stranger.get(f"/runs/{RUN.run_id}")
    assert run.status_code == 503
    own = {"form_id": own_form("maintenance tiny")}
    assert stranger.post("/models/tiny/maintain", data=own).status_code == 503


def test_text_of_others_takes_no_effect(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = replace(GATE, group="all", verdict=Verdict.PASSED, binding=False, estimate=None)
    view = VersionView(
        model="tiny",
        version="2",
        release="r" * 64,
        recipe="int8-max",
        facts={
            "recipe": {"name": "int8-max", "summary": HOSTILE, "rule": "max", "smoothing": "none"},
            "quantized_share": 0.875,
            "kept_high": [HOSTILE],
            "sensitivity": [{"site": HOSTILE, "error": 0.5, "macs_share": 0.125}],
            "engines": [
                {"target": "onnxruntime-cpu", "size": 12_345, "seconds": 0.5, "reason": HOSTILE}
            ],
            "calibration": "c" * 64,
            "model": "d" * 64,
        },
        reports=(GateReport("onnxruntime-cpu", (GATE, passed)),),
        champion="1",
        rows=(
            GateRow("onnxruntime-cpu", GATE, replace(GATE, estimate=Interval(0.01, 0.0, 0.02))),
            GateRow("onnxruntime-cpu", passed, None),
        ),
    )
    monkeypatch.setattr(versions, "one_version", lambda *_: view)
    monkeypatch.setattr(candidate, "candidate", lambda *_: MADE)
    shown = browser.get("/models/tiny/versions/2").text
    for page in (shown, browser.get("/models/tiny").text, browser.get("/").text):
        assert "<script>alert" not in page
        assert ESCAPED in page
    for figure in ("0.07 [0.06, 0.08]", ">0.01<", "≤ 0.05", "87.5 %", "12.3 kB", "<svg", "Approve"):
        assert figure in shown
    assert shown.index("Binding gates") < shown.index("not bind")


def test_a_version_says_what_runs_and_names_no_format_that_its_recipe_has_not(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "layer-precision: 46 of 47 products run as asked, 99.1% of their multiply-accumulates"
    ran = replace(GATE, metric="layer-precision", group="all", reason=told)
    weights = {"format": "int4", "granularity": "block"}
    view = VersionView(
        model="tiny",
        version="2",
        release="r" * 64,
        recipe="int4-awq",
        facts={
            "recipe": {
                "name": "int4-awq",
                "summary": "",
                "rounding": "awq",
                "weights": weights,
                "activations": None,
                "smoothing": "none",
            },
            "quantized_share": 0.5,
            "kept_high": [],
            "sensitivity": [{"site": "first", "error": 0.5, "macs_share": 0.125}],
            "engines": [],
            "calibration": "c" * 64,
            "model": "d" * 64,
        },
        reports=(GateReport("onnxruntime-cpu", (ran,)),),
        champion="1",
        rows=(GateRow("onnxruntime-cpu", ran, None),),
    )
    monkeypatch.setattr(versions, "one_version", lambda *_: view)
    monkeypatch.setattr(candidate, "candidate", lambda *_: MADE)
    page = browser.get("/models/tiny/versions/2").text
    assert told in page
    assert "<td>int4</td>" in page
    assert "INT8" not in page


def test_a_run_is_watched_until_it_ends(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "read_run", lambda _: RUN)
    page = browser.get(f"/runs/{RUN.run_id}").text
    assert f'data-live="/runs/{RUN.run_id}"' in page
    assert "<title>tiny: running" in page
    assert '<progress max="1" value="0.25"' in page
    assert "observing 256 requests" in page
    assert browser.get(f"/runs/{RUN.run_id}/progress").status_code == 200
    ended = replace(RUN, state="Failed", finished=True, message=f"Refused: {HOSTILE}")
    monkeypatch.setattr(runs, "read_run", lambda _: ended)
    last = browser.get(f"/runs/{RUN.run_id}/progress")
    assert last.status_code == STOP_POLLING
    assert ESCAPED in last.text
    page = browser.get(f"/runs/{RUN.run_id}").text
    assert "data-live" not in page
    assert "<title>tiny: failed" in page
    assert f"/runs/{RUN.run_id}/cancel" not in page


def test_a_run_is_watched_on_while_prefect_is_away(browser: TestClient) -> None:
    answer = browser.get(f"/runs/{RUN.run_id}/progress")
    assert answer.status_code == 200
    assert "keeps asking" in answer.text


def test_a_drift_report_is_shut_in(browser: TestClient, known: Settings) -> None:
    for name in ("lenses.html", "evidently.html"):
        known.store().put(f"reports/tiny/{'w' * 16}/{name}", HOSTILE.encode())
    links = re.findall(r'href="(/reports/[^"]+)"', browser.get("/models/tiny").text)
    policies = {link: browser.get(link).headers["content-security-policy"] for link in links}
    assert len(policies) == 2
    for link, policy in policies.items():
        assert policy.startswith("sandbox")
        assert "allow-same-origin" not in policy
        assert "connect-src" not in policy
        assert ("allow-scripts" in policy) == link.endswith("/evidently.html")


@pytest.mark.parametrize(
    "path", ["/reports/../models/tiny/current", "/reports/%2e%2e/models/tiny/current"]
)
def test_a_report_is_nothing_but_a_report(browser: TestClient, path: str) -> None:
    assert browser.get(path).status_code in (400, 404)


def test_metrics_are_for_whoever_shows_the_key(stranger: TestClient, known: Settings) -> None:
    sample = MetricSample("requant_champion_version", {"model": "tiny"}, 2.0)
    write_snapshot(known.root / "metrics" / "tiny.prom", [sample])
    answer = stranger.get("/metrics", headers={"Authorization": f"Bearer {SECRET.key}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert sample in parse(answer.text)
    for wrong in ("Bearer wrong", "Bearer", f"Basic {SECRET.key}", ""):
        assert stranger.get("/metrics", headers={"Authorization": wrong}).status_code == 401


def test_no_page_names_the_environments_secrets(browser: TestClient) -> None:
    assert os.environ["PREFECT_API_URL"] == NOBODY
    assert SECRET.key not in browser.get("/models/tiny").text


def upcoming(**facts: Any) -> dict[str, Upcoming]:
    plain = {
        "next_run": "2026-03-29T01:30:00+00:00",
        "late": 0,
        "overdue_s": 0.0,
        "paused": False,
        "missing": None,
    }
    return {"tiny": Upcoming("tiny", **{**plain, **facts})}


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        ({}, "2026-03-29 01:30:00"),
        ({"late": 3, "overdue_s": 7200.0}, "overdue by 2 h, 3 runs wait"),
        ({"next_run": None, "missing": "2026-03-29T01:30:00+00:00"}, "was never created"),
        ({"next_run": None, "paused": True}, "paused"),
        ({"next_run": None}, "not created yet"),
    ],
)
def test_the_next_run_is_what_the_server_says(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], shown: str
) -> None:
    monkeypatch.setattr(schedules, "upcoming", lambda: upcoming(**facts))
    for path in ("/", "/models/tiny"):
        assert shown in browser.get(path).text


def test_the_neighbours_are_a_click_away(browser: TestClient, known: Settings) -> None:
    noted = {
        "prefect": "http://127.0.0.1:4200",
        "mlflow": "sqlite:///x",
        "evidently": "http://127.0.0.1:8000",
    }
    with announced(known, noted):
        page = browser.get(
            "/", headers={"Host": "localhost:8400", "Origin": "http://localhost:8400"}
        ).text
    assert 'href="/beside/Prefect?path=%2F"' in page
    assert 'href="/beside/Evidently?path=%2F"' in page
    assert "MLflow</a>" not in page


def test_what_the_last_intake_took_and_set_aside_is_shown(
    browser: TestClient, known: Settings
) -> None:
    sources = f"sources: [{{path: inbox, name: inbox}}, {{path: empty, name: empty}}]\n{SPEC}"
    known.store().put(f"models/tiny/{'e' * 64}/spec.yaml", sources.encode())
    known.store().put(
        "models/tiny/current", json.dumps({"version": 1, "digest": "e" * 64}).encode()
    )
    done = SourceIntake(
        "inbox",
        "/srv/inbox",
        "2026-01-05T08:00:00+00:00",
        files=3,
        accepted=41,
        rejected=2,
        reasons={HOSTILE: 2},
        problems=(Problem("broken.parquet", "is cut short"),),
    )
    write_last(known.store(), "tiny", done)
    page = browser.get("/models/tiny").text
    assert "Sources of traffic" in page
    for shown in ("inbox", "41", "broken.parquet: is cut short", f"2 × {ESCAPED}"):
        assert shown in page
    assert HOSTILE not in page
