"""What an order would do, runs as they are watched, the audit, and health."""

import csv
import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from dashboards.console import actions
from flows.commands.doctor import SetupCheck
from flows.queries import runs
from flows.queries.console import plan
from flows.queries.console.asking import Asked
from flows.queries.console.watched import watched
from flows.queries.runs import LogLine, RunView
from flows.queries.workers import WorkerView
from infra.canonical import Json
from infra.errors import NotFound, Unavailable
from infra.releases import write_release
from infra.settings import Settings
from infra.stores import layout
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body
from tasks.quantization.recipe.ladder import climb_checkpoint
from tasks.records import Action
from tests.unit.dashboards.conftest import ESCAPED, HOSTILE, RUN, SPEC, own_form

FACTS: dict[str, Json] = {
    "recipe": {"name": "int8-max", "quantized": True, "weights": {"format": "int8"}},
    "quantized_share": 0.9,
    "sensitivity": [{"site": "conv1"}],
}


@pytest.fixture
def reigns(known: Settings) -> list[str]:
    """Promote two releases, one after the other; return their digests."""
    digests = []
    for number in (1, 2):
        facts = {**FACTS, "number": number}
        release = write_release(
            known.store(), "tiny", {"graph.onnx": b"%d" % number}, facts, known.signer()
        )
        promoted = body(
            EntryKind.PROMOTED,
            actor="Ada",
            reason="it passed",
            version=str(number),
            release=release.digest,
        )
        journal.commit("tiny", lambda _, entry=promoted: entry)
        digests.append(release.digest)
    return digests


def test_a_dry_run_says_what_would_be_done_and_starts_nothing(
    browser: TestClient, reigns: list[str], triggered: list[tuple[Any, ...]]
) -> None:
    page = browser.get("/models/tiny/requantize", params={"recipe": "int8-max", "reason": HOSTILE})
    assert "What would be done" in page.text
    assert "becomes champion at once" in page.text
    assert ESCAPED in page.text
    ladder = browser.get("/api/models/tiny/plan").json()["tries"]
    assert ladder[-1]["name"] == "full-precision"
    assert len(ladder) > 3
    chosen = browser.get("/api/models/tiny/plan", params={"recipe": "int8-max"}).json()["tries"]
    assert [choice["name"] for choice in chosen] == ["int8-max"]
    assert triggered == []
    assert 'name="form_id"' in page.text
    assert 'type="hidden"' not in page.text  # a dry run's address carries no form's id


def test_a_checkpoint_shows_its_own_ladder_and_that_no_gateway_serves_it(
    browser: TestClient, known: Settings, reigns: list[str]
) -> None:
    kept = SPEC.replace("image-classification", "causal-lm").replace(
        "input: {shape: [1, 8, 8]}", "input: {tokenizer: tokenizer.json}"
    )
    kept = kept.replace("onnxruntime-cpu", "compressed-tensors").replace(
        "{metric: flips, at_most: 0.05}", "{metric: agreement, at_least: 0.8}"
    )
    known.store().put(
        "models/tiny/current", json.dumps({"version": 1, "digest": "e" * 64}).encode()
    )
    known.store().put(f"models/tiny/{'e' * 64}/spec.yaml", kept.encode())
    ladder = [choice["name"] for choice in browser.get("/api/models/tiny/plan").json()["tries"]]
    climbed = climb_checkpoint(recipe=None, made_by="int8-max", action=Action.RECALIBRATE)
    assert ladder == [recipe.name for recipe in climbed]
    assert ladder[0] == "int8-max", "the champion's recipe comes first"
    assert "which no gateway or ONNX server serves" in browser.get("/models/tiny").text


@pytest.mark.parametrize("asked", [{"window": "windows/tiny/other"}, {"recipe": "int9"}])
def test_an_order_of_what_is_not_there_is_refused(
    browser: TestClient, triggered: list[tuple[Any, ...]], asked: dict[str, str]
) -> None:
    assert browser.get("/api/models/tiny/plan", params=asked).status_code == 400
    sent = {"form_id": own_form("requantize tiny"), "reason": "because", **asked}
    assert browser.post("/models/tiny/requantize", data=sent).status_code == 400
    assert triggered == []


def test_a_rollback_shows_both_digests_before_it_is_confirmed(
    browser: TestClient, reigns: list[str]
) -> None:
    page = browser.get("/models/tiny/rollback").text
    assert "Roll back to version 1" in page
    assert all(digest in page for digest in reigns)
    document = browser.get("/api/models/tiny/rollback").json()
    assert document["changes"][1] == ["served digest", reigns[1], reigns[0]]
    assert browser.get("/models/tiny/rollback", params={"to": "9"}).status_code == 404


def test_earlier_champions_come_by_the_page_with_the_chosen_one(
    browser: TestClient, known: Settings, reigns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("3", "4"):
        entry = body(EntryKind.PROMOTED, actor="Ada", reason="", version=version, release=reigns[0])
        journal.commit("tiny", lambda _, entry=entry: entry)
    monkeypatch.setattr(plan, "REIGNS", 2)
    for asked, shown in (
        ({}, ["3", "2"]),
        ({"page": 2}, ["3", "1"]),
        ({"page": 9, "to": "1"}, ["1"]),
        ({"to": "1"}, ["1", "3", "2"]),
    ):
        document = browser.get("/api/models/tiny/rollback", params=asked).json()
        assert [target["version"] for target in document["targets"]] == shown
        assert document["pages"] == 2
    page = browser.get("/models/tiny/rollback", params={"to": "1"}).text
    assert "Roll back to version 1" in page
    assert "rollback?page=2" in page


def test_a_release_that_was_tampered_with_cannot_be_chosen(
    browser: TestClient, known: Settings, reigns: list[str]
) -> None:
    known.store().put(layout.release_file("tiny", reigns[0], "manifest.json"), b"{}")
    page = browser.get("/models/tiny/rollback").text
    assert "cannot come back" in page
    assert "Roll back to version" not in page


def test_nothing_to_roll_back_to_is_said(browser: TestClient) -> None:
    assert "nothing to roll back to" in browser.get("/models/tiny/rollback").text


ENDED = replace(RUN, state="Completed", finished=True)


@pytest.mark.parametrize(
    ("message", "word", "well"),
    [
        ("promoted: version 2 (int8-max) is champion", "promoted", True),
        ("refused: no candidate passed", "refused", False),
        ("inconclusive: too little traffic", "inconclusive", False),
        ("awaiting-approval: version 2 (int8-max) waits", "awaiting-approval", False),
        ("All states completed.", "Completed", True),
    ],
)
def test_a_run_is_called_what_it_came_to(
    browser: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    word: str,
    well: bool,
) -> None:
    ended = replace(ENDED, message=message)
    assert (watched(ended).word, watched(ended).ended_well) == (word, well)
    monkeypatch.setattr(runs, "read_run", lambda _: ended)
    page = browser.get(f"/runs/{RUN.run_id}").text
    assert f"<title>tiny: {word.lower()}" in page
    assert ("ended-well" in page) is well


def test_a_run_that_tries_nothing_says_what_it_did(known: Settings) -> None:
    done = replace(ENDED, message="", doing="done")
    assert watched(done).sentence == "done"
    act = body(EntryKind.REJECTED, actor="Ada", reason="too slow", version="2", release="r" * 64)
    journal.commit("tiny", lambda _: act)
    assert watched(done).sentence == "rejected: version 2, too slow"
    assert watched(replace(done, state="Failed", message="it broke")).sentence == "it broke"


def test_a_run_shows_its_candidates_and_its_log(known: Settings) -> None:
    lines = tuple(
        LogLine("2026-01-05T08:00:00+00:00", "INFO", text)
        for text in ("trying int8-max: INT8", f"trying int8-smooth: {HOSTILE}", "building")
    )
    states = [item.state for item in watched(replace(RUN, lines=lines)).tried]
    assert states == ["did not pass", "trying"]
    end = "promoted: version 2 (int8-smooth) is champion"
    ended = replace(ENDED, lines=lines, message=end)
    assert [item.state for item in watched(ended).tried] == ["did not pass", "passed"]


def test_a_run_of_another_server_is_told_by_the_ledger(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_: str) -> RunView:
        raise NotFound("the Prefect server in use has no such run")

    monkeypatch.setattr(runs, "read_run", absent)
    for kind, reason in (
        (EntryKind.INTENDED, "traffic moved"),
        (EntryKind.FINISHED, "refused: no"),
    ):
        entry = body(kind, actor="Ada", reason=reason, details={"run": RUN.run_id})
        journal.commit("tiny", lambda _, entry=entry: entry)
    assert browser.get(f"/runs/{RUN.run_id}").status_code == 404
    (linked,) = set(re.findall(r'href="(/runs/[^"]+)"', browser.get("/audit").text))
    page = browser.get(linked).text
    assert "on another one" in page
    assert "traffic moved" in page
    assert "<title>tiny: refused" in page
    assert "this run in Prefect" not in page
    assert browser.get(linked.replace(RUN.run_id, "nobodys")).status_code == 404


def test_a_run_is_streamed_until_it_ends(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter([RUN, replace(ENDED, message="refused: no")])
    monkeypatch.setattr(runs, "read_run", lambda _: next(states))
    monkeypatch.setattr("dashboards.console.pages.runs.EVERY_S", 0)
    answer = browser.get(f"/runs/{RUN.run_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [part.partition("\ndata: ") for part in answer.text.strip().split("\n\n")]
    assert [name for name, _, _ in events] == [
        "event: progress",
        "event: progress",
        "event: finished",
    ]
    assert "refused" in json.loads(events[1][2])


def test_a_run_is_cancelled_by_name(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[tuple[str, str]] = []
    monkeypatch.setattr(actions, "cancel", lambda run, actor: stopped.append((run, actor)))
    address = f"/runs/{RUN.run_id}/cancel"
    assert browser.post(address, data={"form_id": "x.y"}).status_code == 403
    own = {"form_id": own_form(f"cancel {RUN.run_id}")}
    assert browser.post(address, data=own).headers["location"] == f"/runs/{RUN.run_id}"
    assert stopped == [(RUN.run_id, "Ada")]


def test_the_audit_filters_pages_and_tells_who_served(
    browser: TestClient, reigns: list[str]
) -> None:
    entries = browser.get("/api/audit", params={"kind": "promoted"}).json()
    assert [entry["version"] for entry in entries["entries"]] == ["2", "1"]
    assert entries["champions"] == {"tiny": "2"}
    first = browser.get("/api/audit", params={"size": 1, "page": 99}).json()
    assert (first["page"], first["pages"], len(first["entries"])) == (4, 4, 1)
    before = browser.get("/api/audit", params={"at": "2000-01-01"}).json()
    assert (before["total"], before["champions"]) == (0, {})
    assert browser.get("/audit", params={"at": "yesterday"}).status_code == 400
    page = browser.get("/audit").text
    assert ESCAPED in page
    assert HOSTILE not in page


def test_an_export_is_whole_and_runs_no_formula(browser: TestClient, known: Settings) -> None:
    formula = body(EntryKind.REFUSED, actor="Ada", reason="=HYPERLINK(1)")
    journal.commit("tiny", lambda _: formula)
    rows = list(csv.DictReader(io.StringIO(browser.get("/audit/export.csv").text)))
    assert [row["number"] for row in rows] == ["3", "2", "1"]
    assert rows[0]["reason"] == "'=HYPERLINK(1)"
    exported = json.loads(browser.get("/audit/export.json").text)
    assert exported["entries"][0]["reason"] == "=HYPERLINK(1)"
    known.store().put(f"{layout.ledger('tiny')}/00000004.json", b'{"version": 99}')
    assert browser.get("/audit/export.csv").status_code == 400
    assert "is not among these" in browser.get("/audit").text


def test_health_shows_what_is_broken_first_or_that_it_is_not_known(
    browser: TestClient, console: FastAPI
) -> None:
    found = [SetupCheck("disk", "fine", "much"), SetupCheck("store", "broken", HOSTILE, "mend it")]
    console.state.examined = Asked(lambda: found)
    page = browser.get("/health").text
    assert "1 broken" in page
    assert page.index("mend it") < page.index("much")
    assert ESCAPED in page

    def away() -> list[SetupCheck]:
        raise Unavailable("nothing answers")

    console.state.examined = Asked(away)
    assert "nothing answers" in browser.get("/health").text


def test_health_shows_who_picks_runs_up_and_what_is_at_work(
    browser: TestClient, console: FastAPI
) -> None:
    page = browser.get("/health").text
    assert "Prefect did not answer" in page
    assert "No run is at work" in page
    console.state.workers = Asked(lambda: [WorkerView("gpu-1", "pool", "offline", None)])
    console.state.runs = Asked(lambda: [RUN, ENDED])
    page = browser.get("/health").text
    assert "gpu-1" in page
    assert "offline" in page
    report = browser.get("/api/health").json()
    assert [run["run_id"] for run in report["at_work"]] == [RUN.run_id]
    console.state.workers = Asked(list)
    assert "Nothing picks runs up" in browser.get("/health").text


def test_runs_of_a_list_say_what_they_came_to(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[RunView] = [replace(ENDED, message="refused: no candidate passed")]
    monkeypatch.setattr(runs, "recent_runs", lambda *_: ended)
    assert 'class="badge bad">refused' in browser.get("/runs").text
