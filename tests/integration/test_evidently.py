"""Evidently's real UI over a workspace: its API answers the panels' queries with our figures."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from infra.settings import Settings
from tasks.records import Action, Decision, DetectorResult, Finding, Health, Request, SampleRef

pytestmark = pytest.mark.timeout(180)
START = datetime(2026, 3, 1, tzinfo=UTC)
FIDELITIES = (0.997, 0.991, 0.998)
WORDS = ("short", "a little longer", "quite a long text, with 3 digits")


@pytest.fixture(scope="module")
def ui(shared_workspace: Settings) -> Iterator[httpx.Client]:
    """Start the UI on an empty workspace, in which windows of two models are stored then.

    Three are of one model, one is of another.
    """
    from flows.orchestration.services import EVIDENTLY, started
    from infra.processes.supervision import listening_socket

    folder, key = (
        shared_workspace.root / "evidently",
        {"Authorization": f"Bearer {shared_workspace.secret().key}"},
    )
    with (
        started(shared_workspace, {EVIDENTLY: listening_socket(0, fixed=True)}) as (served,),
        httpx.Client(base_url=f"{served.address}/api", headers=key) as client,
    ):
        assert projects(client) == {}
        for number, fidelity in enumerate(FIDELITIES):
            store(folder, "tiny", number, fidelity)
        store(folder, "other", 0, 0.9)
        wait_for(
            lambda: (
                {len(snapshots(client, project)) for project in projects(client).values()} == {1, 3}
            )
        )
        yield client


def wait_for(ready: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"nothing within {seconds} s")


def store(folder: Path, model: str, number: int, fidelity: float) -> None:
    from tasks.drift.report.page import Look, drift_report, store_snapshot

    rng = np.random.default_rng(number)

    def some(prefix: str, words: tuple[str, ...], day: int) -> list[Request]:
        texts = rng.choice(words, 120)
        time = START + timedelta(days=day)
        return [
            Request(f"{prefix}{i}", time, "t", "docs", "en", f"{text} {i}")
            for i, text in enumerate(texts)
        ]

    finding = Finding("all", fidelity, 0.992, fidelity < 0.992, "as measured")
    health = Health.DEGRADED if finding.exceeded else Health.FINE
    window = SampleRef(
        model, f"window-{number}", "key", rows=120, seen=1000 + number, dropped={}, groups=()
    )
    action = Action.RECALIBRATE if finding.exceeded else Action.KEEP
    decision = Decision(
        action, ("so",), (DetectorResult("fidelity", health, (finding,), 120),), window.digest
    )
    current = some("c", WORDS[number % 2 :], number)
    report = drift_report(some("r", WORDS[:2], number), current, Look(window, "2", decision))
    store_snapshot(report, folder, model, window.digest)


def projects(client: httpx.Client) -> dict[str, str]:
    return {one["name"]: one["id"] for one in client.get("/projects").json()}


def snapshots(client: httpx.Client, project: str) -> list[dict[str, Any]]:
    return list(client.get(f"/projects/{project}/snapshots").json())


def series(client: httpx.Client, project: str, panel: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the UI asks to draw a panel, with the sources in the order of the windows."""
    keys = ("metric", "tags", "metadata", "metric_labels")
    filters = [{key: value[key] for key in keys} for value in panel["values"]]
    answer = client.post(
        f"/v2/snapshots/{project}/data_series_batch", json={"series_filter": filters}
    )
    assert answer.is_success, answer.text
    return list(answer.json()["series"])


def panels(client: httpx.Client, project: str) -> dict[str, dict[str, Any]]:
    return {
        panel["title"]: panel for panel in client.get(f"/v2/dashboards/{project}").json()["panels"]
    }


def test_a_project_opens_on_a_tab_that_holds_every_panel(ui: httpx.Client) -> None:
    dashboard = ui.get(f"/v2/dashboards/{projects(ui)['tiny']}").json()
    (tab,) = dashboard["tabs"]
    assert tab["panels"] == [panel["id"] for panel in dashboard["panels"]]
    for panel in dashboard["panels"]:
        assert series(ui, projects(ui)["tiny"], panel), panel["title"]


def test_fidelity_over_time_is_what_the_detector_said_beside_its_limit(ui: httpx.Client) -> None:
    project = projects(ui)["tiny"]
    found = series(ui, project, panels(ui, project)["Fidelity detector"])
    lines = {line["params"]["figure"]: line["values"] for line in found}
    assert lines == {"value": list(FIDELITIES), "limit": [0.992] * 3}


def test_requests_offered_and_sampled_are_drawn(ui: httpx.Client) -> None:
    project = projects(ui)["tiny"]
    found = series(ui, project, panels(ui, project)["Requests"])
    bars = {bar["params"]["kind"]: bar["values"] for bar in found}
    assert bars == {"offered": [1000, 1001, 1002], "sampled": [120] * 3}


def test_the_share_of_drifted_features_and_each_features_drift_are_drawn(ui: httpx.Client) -> None:
    project = projects(ui)["tiny"]
    known = panels(ui, project)
    for title in ("Share of drifted features", "Drifted features, newest window"):
        (line,) = series(ui, project, known[title])
        assert len(line["values"]) == 3
        assert line["values"][1] > 0  # the second window's texts are longer
    drawn = series(ui, project, known["Drift of each feature"])
    assert {line["params"]["column"] for line in drawn} == {
        value["legend"] for value in known["Drift of each feature"]["values"]
    }
    assert {"length", "digits", "punctuation", "domain", "language"} <= {
        line["params"]["column"] for line in drawn
    }


def test_snapshots_are_filtered_by_decision_and_champion(ui: httpx.Client) -> None:
    project = projects(ui)["tiny"]
    tags = sorted(one["tags"] for one in snapshots(ui, project))
    assert tags == [["keep", "champion 2"], ["keep", "champion 2"], ["recalibrate", "champion 2"]]
    fidelity = panels(ui, project)["Fidelity detector"]
    only = {**fidelity, "values": [{**fidelity["values"][0], "tags": ["recalibrate"]}]}
    (line,) = series(ui, project, only)
    assert line["values"] == [0.991]


def test_a_snapshots_own_page_is_still_drawn(ui: httpx.Client) -> None:
    project = projects(ui)["tiny"]
    for snapshot in snapshots(ui, project):
        answer = ui.get(f"/projects/{project}/{snapshot['id']}/data")
        assert answer.is_success, answer.text
        assert answer.json()["widgets"]
