"""What MLflow and Evidently show of a loop that really ran: nobody opens them on an empty page."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from flows.orchestration.services import announced
from infra.errors import Unavailable
from infra.settings import Settings
from tests.integration.conftest import EXAMPLES, images, serve

pytestmark = pytest.mark.timeout(300)
CONSOLE = "http://127.0.0.1:8400"


@pytest.fixture(scope="module")
def ran(loop: Settings) -> Settings:
    """Run to a champion, a kept window, and a second version that waits."""
    from flows.maintenance import maintenance
    from flows.requantize import requantize
    from tasks.models.catalog import register

    with announced(loop, {"console": CONSOLE}):
        register(EXAMPLES / "digits" / "model.yaml")
        serve(loop, "digits", 0, images(0.5, 1.0))
        maintenance("digits")
        serve(loop, "digits", 1, images(0.5, 1.0, seed=1))
        maintenance("digits")
        requantize("digits", recipe="int8-smooth", require_approval=True)
    return loop


def test_prefect_mlflow_and_evidently_lead_back_to_the_console_and_it_to_them(
    ran: Settings,
) -> None:
    from mlflow.tracking import MlflowClient
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    from flows.queries.console.watched import watched
    from flows.queries.runs import read_run

    mlflow = MlflowClient(ran.mlflow_uri)
    for version in ran.registry().versions("digits"):
        assert version.tags["console"] == f"{CONSOLE}/models/digits/versions/{version.version}"
        made_by = f"{CONSOLE}/runs/{version.tags['flow_run']}?model=digits"
        assert mlflow.get_run(str(version.run_id)).data.tags["console"] == made_by
        path = ran.registry().run_path("digits", version.version)
        assert path == f"/#/experiments/1/runs/{version.run_id}"
    with get_client(sync_client=True) as client:
        links = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["console"]))
        )
        flows = [run.id for run in client.read_flow_runs()]
    made = {version.tags["flow_run"] for version in ran.registry().versions("digits")}
    assert made <= {str(link.flow_run_id) for link in links}, "others share the server"
    assert all(f"({CONSOLE}/runs/{link.flow_run_id})" in str(link.data) for link in links)
    (snapshot,) = (ran.root / "evidently").glob("*/snapshots/*.json")
    assert json.loads(snapshot.read_text())["metadata"]["console"] == f"{CONSOLE}/models/digits"
    shown = {watched(read_run(str(run))).snapshot for run in flows}
    assert shown == {"", f"/projects/{snapshot.parts[-3]}/reports/{snapshot.stem}"}


def test_a_versions_page_leads_to_the_run_that_made_it_or_says_what_is_missing(
    ran: Settings,
) -> None:
    from fastapi.testclient import TestClient

    from dashboards.console.app import create_app
    from infra.access.guard import Guard

    secret = ran.secret()
    key, place = {"Authorization": f"Bearer {secret.key}"}, "/models/digits/versions/1/mlflow"
    guarded = Guard(create_app(secret), "console", secret)
    with TestClient(guarded, base_url=CONSOLE, headers=key, follow_redirects=False) as client:
        nowhere = client.get(place)
        with answering() as address, announced(ran, {"mlflow": address}):
            led, gone = client.get(place), client.get(place.replace("/1/", "/99/"))
    assert (nowhere.status_code, gone.status_code) == (404, 404)
    assert "no MLflow runs beside this console" in nowhere.text
    assert led.headers["location"].startswith(f"{address}/#/experiments/1/runs/")


@contextmanager
def answering() -> Iterator[str]:
    """Let something answer, as MLflow would that is up."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_mlflow_says_which_run_made_a_version_for_which_window_and_what_the_ledger_said(
    ran: Settings,
) -> None:
    from prefect.client.orchestration import get_client

    from tasks.promotion import journal
    from tasks.promotion.ledger import EntryKind

    entries = journal.read("digits")
    intents = [entry for entry in entries if entry.kind is EntryKind.INTENDED]
    said = [
        entry
        for entry in entries
        if entry.kind in (EntryKind.PROMOTED, EntryKind.APPROVAL_REQUESTED)
    ]
    for version, intent, entry in zip(
        ran.registry().versions("digits"), intents, said, strict=True
    ):
        assert version.tags["window"] == intent.details["window"]
        assert version.tags["flow_run"] == intent.details["run"]
        assert (version.tags["ledger"], version.tags["ledger.kind"]) == (
            str(entry.number),
            entry.kind.value,
        )
        with get_client(sync_client=True) as client:
            assert client.read_flow_run(version.tags["flow_run"]).name == "requantize-digits"  # type: ignore[arg-type]


def test_mlflow_describes_the_model_its_versions_and_the_data_behind_them(ran: Settings) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(ran.mlflow_uri, ran.mlflow_uri)
    model = client.get_registered_model("digits")
    assert "image-classification" in model.description
    assert model.tags["task"] == "image-classification"
    second = client.get_model_version("digits", "2")
    assert "- onnxruntime-cpu: passed" in second.description
    assert "- champion before: version 1" in second.description
    run = client.get_run(second.run_id)
    used = {one.dataset.name: one.dataset for one in run.inputs.dataset_inputs}
    release = ran.release("digits", second.tags["release"])
    assert used["digits calibration set"].digest == str(release.facts["calibration"])[:32]
    for dataset in used.values():
        key = json.loads(dataset.source)["uri"].removeprefix(ran.store_address).lstrip("/")
        assert ran.store().exists(key)


def test_what_could_not_be_labelled_after_a_commit_is_told_and_labelled_by_the_next_reconciliation(
    ran: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from flows.approval import approval
    from flows.reconcile import reconcile
    from tasks.promotion import journal

    def down(*_: object) -> None:
        raise Unavailable("the registry does not answer: start it")

    with monkeypatch.context() as broken:
        broken.setattr("infra.registry.registry.Registry.set_tags", down)
        approval("digits", "2", approve=True)
    assert "the next reconciliation tags the versions of digits" in caplog.text
    assert ran.registry().aliases("digits")["champion"] == "2"
    assert ran.registry().version("digits", "2").tags["ledger.kind"] == "approval-requested"
    reconcile("digits")
    tags = ran.registry().version("digits", "2").tags
    assert (tags["ledger"], tags["ledger.kind"]) == (
        str(journal.read("digits")[-1].number),
        "promoted",
    )


def test_evidently_holds_the_window_that_was_looked_at_with_its_decision(ran: Settings) -> None:
    (snapshot,) = (ran.root / "evidently").glob("*/snapshots/*.json")
    document = json.loads(snapshot.read_text())
    assert document["tags"] == ["keep", "champion 1"]
    assert document["metadata"]["lens fidelity"] == "fine"
    (dashboard,) = (ran.root / "evidently").glob("*/dashboard.json")
    titles = {panel["title"] for panel in json.loads(dashboard.read_text())["panels"]}
    assert {
        "Fidelity detector",
        "Range detector",
        "Input detector",
        "Control detector",
        "Drift of each feature",
    } <= titles
    assert "Safety detector" not in titles
