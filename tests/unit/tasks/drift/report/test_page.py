"""Pages for people: they hold what was seen, escape it, and load nothing from elsewhere."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.drift.decision import decide
from tasks.drift.report.page import (
    DETECTORS,
    Look,
    Worst,
    detector_page,
    drift_report,
    remove_snapshot,
    store_snapshot,
)
from tasks.records import (
    Action,
    Decision,
    DetectorResult,
    Finding,
    Health,
    PastDecision,
    Payload,
    Request,
    SampleRef,
)

LOADED = re.compile(rb"""<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*["']https?://""")


def requests(payloads: list[Payload]) -> list[Request]:
    time = datetime(2026, 3, 1, tzinfo=UTC)
    return [
        Request(f"r{i}", time, "t", "docs", "en" if i % 3 else "ja", one)
        for i, one in enumerate(payloads)
    ]


def look(window: str = "w1", fidelity: float = 0.995, action: Action = Action.KEEP) -> Look:
    """Return what a run saw: one detector with two findings, of which the first counts."""
    findings = tuple(
        Finding(name, fidelity, 0.992, False, "fine") for name in ("all", "language=ja")
    )
    result = DetectorResult("fidelity", Health.FINE, findings, 30)
    sample = SampleRef("tiny", window, "key", rows=30, seen=4000, dropped={}, groups=())
    return Look(sample, "7", Decision(action, ("fine",), (result,), window, "more Japanese"))


TEXTS: list[Payload] = [f"text {'long ' * (i % 7)}{i}" for i in range(60)]
IMAGES: list[Payload] = list(np.random.default_rng(0).random((60, 1, 4, 4), np.float32))


@pytest.mark.parametrize(
    ("payloads", "column"), [(TEXTS, b"punctuation"), (IMAGES, b"standard deviation")]
)
def test_evidently_reports_on_texts_and_on_tensors(payloads: list[Payload], column: bytes) -> None:
    page = drift_report(requests(payloads[:30]), requests(payloads[30:]), look()).html
    assert page.lstrip()[:100].lower().startswith((b"<!doctype", b"<html"))
    assert column in page
    assert not LOADED.search(page)
    assert os.environ["DO_NOT_TRACK"]


def test_a_report_on_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="0 current requests"):
        drift_report(requests(TEXTS), [], look())


def test_the_detector_page_shows_decision_reasons_and_findings() -> None:
    finding = Finding("layer conv2", 0.31, 0.02, True, "conv2: 12 % above amax")
    results = [
        DetectorResult("range", Health.DEGRADED, (finding,), 256),
        DetectorResult("safety", Health.FINE, (), 0),
    ]
    page = detector_page(decide(results, window_digest="abc123")).decode()
    for shown in (
        "Decision: recalibrate",
        "abc123",
        "conv2: 12 % above amax",
        "layer conv2",
        "0.31",
        "No figures.",
    ):
        assert shown in page
    assert not LOADED.search(page.encode())


def test_what_users_sent_is_escaped() -> None:
    finding = Finding("language=<script>", 1, 0, True, "<script>alert(1)</script>")
    page = detector_page(
        decide([DetectorResult("input", Health.DEGRADED, (finding,), 1)], window_digest="<b>")
    ).decode()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_window_is_one_snapshot_in_evidentlys_workspace_however_often_it_is_stored(
    tmp_path: Path,
) -> None:
    report = drift_report(requests(TEXTS[:30]), requests(TEXTS[30:]), look())
    for window in ("w1", "w1", "w2"):
        store_snapshot(report, tmp_path, "tiny", window)
    (project,) = [folder for folder in tmp_path.iterdir() if (folder / "metadata.json").exists()]
    assert "tiny" in (project / "metadata.json").read_text()
    assert len(list((project / "snapshots").iterdir())) == 2
    assert remove_snapshot(tmp_path, "tiny", "w1")
    assert not remove_snapshot(tmp_path, "tiny", "w1")
    assert not remove_snapshot(tmp_path, "other", "w2")
    assert len(list((project / "snapshots").iterdir())) == 1


def test_runs_at_once_store_in_evidentlys_workspace_and_nobody_reads_half_a_file(
    tmp_path: Path,
) -> None:
    report = drift_report(requests(TEXTS[:30]), requests(TEXTS[30:]), look())

    def store(number: int) -> None:
        store_snapshot(report, tmp_path / "evidently", f"model-{number % 2}", f"w{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store, range(8)))
    projects = [
        folder
        for folder in (tmp_path / "evidently").iterdir()
        if (folder / "metadata.json").exists()
    ]
    assert len(projects) == 2
    assert {len(list((project / "snapshots").iterdir())) for project in projects} == {4}
    assert [path.name for path in tmp_path.iterdir()] == ["evidently"]


def test_a_snapshot_says_what_it_is_about(tmp_path: Path) -> None:
    store_snapshot(
        drift_report(requests(TEXTS[:30]), requests(TEXTS[30:]), look()), tmp_path, "tiny", "w1"
    )
    (path,) = tmp_path.glob("*/snapshots/*.json")
    document = json.loads(path.read_text())
    assert document["tags"] == ["keep", "champion 7"]
    assert document["metadata"] == {
        "model": "tiny",
        "window": "w1",
        "champion": "7",
        "decision": "keep",
        "attribution": "more Japanese",
        "lens fidelity": "fine",
    }


def test_panels_are_made_once_and_stay_as_somebody_rearranged_them(tmp_path: Path) -> None:
    report = drift_report(requests(TEXTS[:30]), requests(TEXTS[30:]), look())
    store_snapshot(report, tmp_path, "tiny", "w1")
    (dashboard,) = tmp_path.glob("*/dashboard.json")
    first = dashboard.read_text()
    titles = {panel["title"] for panel in json.loads(first)["panels"]}
    assert {title for title in titles if title.endswith("detector")} == {"Fidelity detector"}
    store_snapshot(report, tmp_path / "again", "tiny", "w1")
    assert next((tmp_path / "again").glob("*/dashboard.json")).read_text() == first
    dashboard.write_text('{"tabs": [], "panels": []}')
    store_snapshot(report, tmp_path, "tiny", "w2")
    assert dashboard.read_text() == '{"tabs": [], "panels": []}'


def test_a_look_that_weights_decided_leaves_the_panels_to_the_first_whole_one(
    tmp_path: Path,
) -> None:
    sides = requests(TEXTS[:30]), requests(TEXTS[30:])
    weights = DetectorResult(
        "weights", Health.DEGRADED, (Finding("graph", 1.0, 0.0, True, "other"),), 1
    )
    narrow = replace(look(), decision=replace(look().decision, results=(weights,)))
    store_snapshot(drift_report(*sides, narrow), tmp_path, "tiny", "w1")
    assert list(tmp_path.glob("*/metadata.json"))
    assert not list(tmp_path.glob("*/dashboard.json"))
    every = replace(
        look("w2"), decision=replace(look().decision, results=tuple(map(fine, DETECTORS)))
    )
    store_snapshot(drift_report(*sides, every), tmp_path, "tiny", "w2")
    (dashboard,) = tmp_path.glob("*/dashboard.json")
    titles = {panel["title"] for panel in json.loads(dashboard.read_text())["panels"]}
    assert {f"{detector.capitalize()} detector" for detector in DETECTORS} < titles


def fine(detector: str) -> DetectorResult:
    return DetectorResult(detector, Health.FINE, (), 30)


def test_the_page_draws_the_detectors_over_time_and_redacts_its_examples() -> None:
    finding = Finding("all layers", 0.31, 0.02, True, "stale")
    decision = decide([DetectorResult("range", Health.DEGRADED, (finding,), 9)], window_digest="w2")
    figures = {"range": ("all layers", 0.001, 0.02)}
    past = PastDecision(
        1, "w1", None, Action.KEEP, "1", "s", False, {"range": Health.FINE}, {}, figures
    )
    (one,) = requests(["write to ann@example.com"])
    page = detector_page(decision, [past], [Worst(one, 0.5)]).decode()
    assert "Range, 2 windows".lower() in page.lower()
    assert page.count("<circle class=") == 2
    assert "scales outgrown" in page
    assert "ann@example.com" not in page
    assert "&lt;EMAIL&gt;" in page
