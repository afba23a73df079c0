"""What a model's page draws: nothing, one point, names with markup, findings that are gone."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from flows.queries.console import ledgers as kept_ledgers
from flows.queries.console.ledgers import LedgerValues
from infra.errors import Tampered
from infra.settings import Settings
from infra.stores import layout
from tasks.drift.report.keys import FINDINGS
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body
from tests.unit.dashboards.conftest import ESCAPED, HOSTILE

WINDOW = "a" * 64


def decide(window: str = WINDOW, value: float = 0.25) -> None:
    details: dict[str, Any] = {
        "window": window,
        "sample": "windows/tiny/a.parquet",
        "action": "keep",
        "end": "2026-01-05T08:00:00+00:00",
        "rows": 256,
        "lenses": {"range": "fine"},
        "figures": {"range": [f"layer {HOSTILE}", value, 0.5], "odd": [1, 2]},
    }
    decided = body(EntryKind.DECIDED, actor="schedule", reason="All is fine.", details=details)
    journal.commit("tiny", lambda _: decided)


def keep_findings(settings: Settings, document: bytes) -> None:
    settings.store().put(layout.report("tiny", WINDOW, FINDINGS), document)


def findings(limit: float = 0.5) -> bytes:
    layer = {"subject": f"layer {HOSTILE}", "value": 0.25, "limit": limit}
    results = [{"detector": "range", "findings": [layer, {"subject": "all"}, "odd"]}]
    groups = {f"domain={HOSTILE}": 200, "domain=code": 56}
    return json.dumps({"version": 1, "results": results, "groups": groups}).encode()


def drawn(browser: TestClient) -> Any:
    return browser.get("/api/models/tiny/over-time").json()


def test_a_window_is_drawn_with_its_layers_and_groups(browser: TestClient, known: Settings) -> None:
    decide()
    keep_findings(known, findings())
    document = drawn(browser)
    newest = document["windows"][-1]
    assert newest["figures"] == {
        "range": {"subject": f"layer {HOSTILE}", "value": 0.25, "limit": 0.5}
    }
    assert document["saturation"]["names"] == [HOSTILE]
    assert document["saturation"]["values"] == [[0.5]]
    assert document["groups"]["names"] == sorted([f"domain={HOSTILE}", "domain=code"])
    page = browser.get("/models/tiny").text
    assert "plotly.min.js" in page
    assert ESCAPED in page
    assert HOSTILE not in page


@pytest.mark.parametrize(
    "stored",
    [None, b"{", b"[]", b'{"version": 9}', b"{}", findings(limit=0.0)],
    ids=["gone", "cut short", "no object", "newer", "without a version", "no limit"],
)
def test_findings_that_cannot_be_read_leave_the_rest(
    browser: TestClient, known: Settings, stored: bytes | None
) -> None:
    decide()
    if stored is not None:
        keep_findings(known, stored)
    document = drawn(browser)
    assert document["windows"][-1]["number"] == 3
    assert document["saturation"]["names"] == []
    if stored is None or b"results" not in stored:
        assert "not stored of" in document["missing"][0]
        assert "not stored of" in browser.get("/models/tiny").text


def test_one_point_is_no_empty_chart(browser: TestClient) -> None:
    assert "One window was decided so far" in browser.get("/models/tiny").text


def test_without_a_decision_the_page_says_so_and_loads_no_plot(
    browser: TestClient, known: Settings
) -> None:
    for name in ("00000001.json", "00000002.json"):
        known.store().delete(f"{layout.ledger('tiny')}/{name}")
    page = browser.get("/models/tiny").text
    assert "No window was decided yet" in page
    assert "plotly" not in page


def test_a_ledger_is_read_again_when_an_entry_of_it_changed(known: Settings) -> None:
    values = LedgerValues()
    assert len(values.entries("tiny")) == 2
    decide()
    assert len(values.entries("tiny")) == 3
    key = f"{layout.ledger('tiny')}/00000001.json"
    known.store().put(key, known.store().get(key).replace(b"maintenance", b"a forger"))
    with pytest.raises(Tampered):
        values.entries("tiny")


def test_a_long_ledger_shows_what_was_appended_at_once_and_a_forgery_at_its_next_listing(
    known: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_ledgers, "SHORT", 0)
    monkeypatch.setattr(kept_ledgers, "RARELY", 1e9)
    values = LedgerValues()
    assert len(values.entries("tiny")) == 2
    decide()
    assert len(values.entries("tiny")) == 3
    key = f"{layout.ledger('tiny')}/00000001.json"
    known.store().put(key, known.store().get(key).replace(b"maintenance", b"a forger"))
    assert len(values.entries("tiny")) == 3
    monkeypatch.setattr(kept_ledgers, "LONGEST_S", 0.0)
    with pytest.raises(Tampered):
        values.entries("tiny")


def test_entries_are_kept_of_as_many_ledgers_as_fit_and_of_the_last_in_any_case(
    known: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(kept_ledgers.journal, "read", lambda name: read.append(name) or (1,) * 6)
    monkeypatch.setattr(kept_ledgers, "WHOLE", 12)
    values = LedgerValues()
    for model in ("a", "b", "a", "b", "c", "b", "a"):
        values.entries(model)
    assert read == ["a", "b", "c", "a"]
    monkeypatch.setattr(kept_ledgers, "WHOLE", 1)
    values.entries("d")
    values.entries("d")
    assert read == ["a", "b", "c", "a", "d"]


def test_an_entry_of_a_newer_version_is_said_and_hides_no_other_model(
    browser: TestClient, known: Settings
) -> None:
    key = f"{layout.ledger('tiny')}/00000003.json"
    known.store().put(key, json.dumps({"version": 99}).encode())
    answer = browser.get("/")
    assert answer.status_code == 200
    assert "upgrade Requant to read it" in answer.text
    page = browser.get("/models/tiny")
    assert page.status_code == 400
    assert "upgrade Requant to read it" in page.text


def test_the_twins_are_described_and_answer_errors_as_json(browser: TestClient) -> None:
    paths = browser.get("/api/openapi.json").json()["paths"]
    assert {"/api/models", "/api/models/{model}", "/api/models/{model}/over-time"} <= set(paths)
    answer = browser.get("/api/models/nobody")
    assert answer.status_code == 404
    assert "no model is called" in answer.json()["detail"]
    listed = browser.get("/api/models", params={"state": "waiting"}).json()
    assert [row["name"] for row in listed["models"]] == ["tiny"]
    assert browser.get("/api/models", params={"q": "none of that name"}).json()["models"] == []
