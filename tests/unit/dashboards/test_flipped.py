"""A version's page shows which answers flipped, beside full precision's and the champion's."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from flows.queries import versions
from flows.queries.console import candidate
from flows.queries.console.flipped import flips_beside
from flows.queries.versions import VersionView
from tasks.records import FlippedAnswers, FlippedCase, GateReport
from tests.unit.dashboards.conftest import ESCAPED, GATE, HOSTILE, MADE


def report(count: int, **answers: str) -> GateReport:
    examples = tuple(
        FlippedCase(name, "mail", "en", "an input", "", "as it was", answer)
        for name, answer in answers.items()
    )
    return GateReport("onnxruntime-cpu", (GATE,), (FlippedAnswers("flips", count, 9, examples),))


def test_the_champions_answer_is_told_where_its_report_keeps_it() -> None:
    (shown,) = flips_beside([report(2, a="mine", b="mine")], [report(1, a="its")])
    both, only = shown.examples
    assert (both.champion, both.champion_flips) == ("its", True)
    assert (only.champion, only.champion_flips) == (None, False)


@pytest.mark.parametrize("beside", [[], [report(5, z="its")], [GateReport("other", ())]])
def test_what_a_report_does_not_keep_is_not_guessed(beside: list[GateReport]) -> None:
    (shown,) = flips_beside([report(1, a="mine")], beside)
    assert (shown.examples[0].champion, shown.examples[0].champion_flips) == (None, None)


def test_the_page_and_its_twin_show_the_same_flips(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = report(4, a=HOSTILE, b="not so")
    made = replace(MADE, flips=flips_beside([own], [report(1, a="its")]))
    facts = {"recipe": {"name": "int8-max"}, "quantized_share": 0.5}
    view = VersionView("tiny", "2", "r" * 64, "int8-max", facts, (own,), "1", ())  # type: ignore[arg-type]
    monkeypatch.setattr(versions, "one_version", lambda *_: view)
    monkeypatch.setattr(candidate, "candidate", lambda *_: made)
    page = browser.get("/models/tiny/versions/2").text
    for words in ("4 of 9", "2 of 4 as examples", ESCAPED, "does not flip", "its", "as it was"):
        assert words in page
    twin = browser.get("/api/models/tiny/versions/2").json()
    assert twin["flips"][0]["examples"][0]["candidate"] == HOSTILE
    monkeypatch.setattr(candidate, "candidate", lambda *_: replace(made, flips=()))
    assert "keep no answers" in browser.get("/models/tiny/versions/2").text
