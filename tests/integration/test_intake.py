"""Sources on a schedule: a folder, a bucket and an MLflow experiment.

The flow, the command and maintenance read them.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from infra.errors import BadInput
from infra.settings import Settings
from tests.conftest import pointed_at
from tests.integration.conftest import EXAMPLES

pytestmark = pytest.mark.timeout(300)
HOUR_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
SOURCES = """
sources:
  - {path: inbox, format: jsonl, settle: 0}
  - {path: s3://logs/cameras, format: kserve}
  - {experiment: cameras-online}
"""


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: tuple[str, str]
) -> Iterator[tuple[Settings, Path]]:
    """Register the digits with three sources that are not there yet; return its spec's folder."""
    from flows.orchestration.runtime import using
    from tasks.models.catalog import register

    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(EXAMPLES / "digits", folder / "digits")
    spec = folder / "digits" / "model.yaml"
    spec.write_text(spec.read_text() + SOURCES)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    keys = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ.update({**keys, "REQUANT_S3_ENDPOINT_URL": f"http://{host}:{port}"})
    try:
        with using(*prefect_server):
            for settings in pointed_at(folder / "workspace"):
                register(spec)
                yield settings, folder / "digits"
    finally:
        server.stop()
        os.environ.clear()
        os.environ.update(before)


def pixels(number: int) -> list[list[list[float]]]:
    return [
        [[float((number * 13 + row * 3 + column) % 101) for column in range(8)] for row in range(8)]
    ]


def line(name: str, number: int = 0, time: datetime = HOUR_AGO) -> str:
    return (
        json.dumps({"request_id": name, "time": time.isoformat(), "tensor": pixels(number)}) + "\n"
    )


def bucket() -> Any:
    return boto3.client("s3", endpoint_url=os.environ["REQUANT_S3_ENDPOINT_URL"])


def put_event(name: str, side: str) -> None:
    body = {"instances": [pixels(3)]} if side == "request" else {"predictions": [4]}
    kind = f"org.kubeflow.serving.inference.{side}"
    event = {"id": name, "type": kind, "time": HOUR_AGO.isoformat(), "data": body}
    bucket().put_object(
        Bucket="logs", Key=f"cameras/{name}-{side}.json", Body=json.dumps(event).encode()
    )


def log_trace(settings: Settings, number: int) -> None:
    import mlflow

    mlflow.set_tracking_uri(settings.mlflow_uri)
    if (
        mlflow.get_experiment_by_name("cameras-online") is None
    ):  # by itself it would write into this folder
        place = (settings.root / "traces").as_uri()
        mlflow.create_experiment("cameras-online", artifact_location=place)
    mlflow.set_experiment("cameras-online")

    @mlflow.trace
    def predict(instances: list[Any]) -> list[int]:
        return [1]

    predict(instances=[pixels(number)])
    mlflow.flush_trace_async_logging()


def command(*arguments: str) -> tuple[int, Any]:
    """Run one command as typed; return its exit code, and the JSON that it printed."""
    from typer.testing import CliRunner

    from flows.cli import app

    done = CliRunner().invoke(app, [*arguments, "--json"])
    return done.exit_code, json.loads(done.stdout)


def stored() -> list[str]:
    from infra.settings import settings
    from tasks.traffic.storage.windows import read_window

    return sorted(
        one.request_id for one in read_window(settings().store(), "digits", hours=1000).requests
    )


def test_sources_that_are_not_there_are_told_each_and_stop_nothing(
    served: tuple[Settings, Path],
) -> None:
    code, sources = command("traffic", "pull", "digits")
    assert code == 2
    assert [one["source"] for one in sources] == ["inbox", "cameras", "cameras-online"]
    folder, objects, traces = (one["error"] for one in sources)
    assert "inbox is not there: make it" in folder
    assert "s3://logs/cameras" in objects
    assert "create the bucket or correct its name" in objects
    assert "no experiment 'cameras-online'" in traces


def test_each_source_is_read_once_and_what_it_did_last_can_be_seen(
    served: tuple[Settings, Path],
) -> None:
    from tasks.traffic.sources import last_intake

    settings, folder = served
    (folder / "inbox").mkdir()
    (folder / "inbox" / "a.jsonl").write_text(line("a", 1) + "{broken\n")
    bucket().create_bucket(Bucket="logs")
    put_event("cam", "request")
    put_event("cam", "response")
    log_trace(settings, 5)
    code, sources = command("traffic", "pull", "digits")
    assert (code, [one["error"] for one in sources]) == (0, [None] * 3)
    assert [(one["files"], one["accepted"], one["rejected"]) for one in sources] == [
        (1, 1, 1),
        (2, 1, 0),
        (1, 1, 0),
    ]
    code, again = command("traffic", "pull", "digits")
    assert [(one["files"], one["accepted"], one["duplicates"]) for one in again] == [(0, 0, 0)] * 3
    assert [one.time for one in last_intake(settings.store(), "digits")] == [
        one["time"] for one in sorted(again, key=lambda one: str(one["source"]))
    ]
    assert not list((settings.root / "intake").rglob("*.json")), "copies of objects are removed"


def test_traces_that_come_later_are_read_and_the_others_are_not_asked_for_again(
    served: tuple[Settings, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.registry import traces

    settings, _ = served
    documents: list[str] = []
    read = traces._document

    def counting(wanted: Any, trace: Any) -> Any:
        found = read(wanted, trace)
        documents.extend(found or ())
        return found

    monkeypatch.setattr(traces, "_document", counting)
    command("traffic", "pull", "digits")
    assert documents == []
    log_trace(settings, 6)
    _, sources = command("traffic", "pull", "digits")
    assert [(one["files"], one["accepted"]) for one in sources] == [(0, 0), (0, 0), (1, 1)]


def test_maintenance_reads_what_is_new_before_it_samples_and_tells_what_it_could_not_read(
    served: tuple[Settings, Path],
) -> None:
    from flows.maintenance import maintenance
    from flows.orchestration.progress import listening

    settings, folder = served
    day = [line(f"m{number}", number) for number in range(80)]
    (folder / "inbox" / "day.jsonl").write_text("".join(day))
    (folder / "inbox" / "bad.jsonl").symlink_to(folder / "weights.safetensors")
    (folder / "inbox" / "late.jsonl").write_text(line("late", 9, HOUR_AGO - timedelta(hours=5)))
    sentences: list[str] = []
    with listening(lambda sentence, share: sentences.append(sentence)):
        outcome = maintenance("digits")
    assert outcome.candidates, "a first champion was tried on what was taken in"
    assert any(one.startswith("inbox: ") and "81 requests stored" in one for one in sentences), (
        sentences
    )
    sample = next(
        key for key in settings.store().list("windows/digits/") if key.endswith(".parquet")
    )
    from tasks.traffic.storage.codec import from_parquet

    sampled = {one.request_id for one in from_parquet(settings.store().get(sample), where=sample)}
    assert {"late", "m0", "cam"} <= sampled


_KILLED = """
import sys
import tasks.traffic.intake
from infra.settings import use_workspace
use_workspace(None)
tasks.traffic.intake.BUFFER_ROWS = 20
from flows.intake import intake
from flows.orchestration.orchestrated import call
call(intake, "digits")
"""


def test_killed_and_twice_at_once_each_request_is_stored_once(
    served: tuple[Settings, Path],
) -> None:
    settings, folder = served
    before = len(stored())
    rows = [line(f"k{number}", number) for number in range(2_000)]
    (folder / "inbox" / "killed.jsonl").write_text("".join(rows))
    parts = len(list(settings.store().list("traffic/digits/")))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _KILLED])

    killed = start()
    while len(list(settings.store().list("traffic/digits/"))) < parts + 3:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert before < len(stored()) < before + 2_000
    both = [start(), start()]
    assert [one.wait(120) for one in both] == [0, 0]
    assert len(stored()) == before + 2_000
    assert len(set(stored())) == before + 2_000


def test_a_model_without_sources_and_a_source_that_is_a_file_are_refused(
    served: tuple[Settings, Path], tmp_path: Path
) -> None:
    from flows.intake import intake
    from tasks.models.catalog import register

    _, folder = served
    shutil.copytree(folder, tmp_path / "digits")
    spec = tmp_path / "digits" / "model.yaml"
    spec.write_text(
        spec.read_text()
        .replace("path: inbox", "path: config.json")
        .replace("name: digits", "name: other")
    )
    with pytest.raises(
        BadInput, match=r"sources\.0\.path: .*config\.json is a file: give the folder"
    ):
        register(spec)
    spec.write_text(spec.read_text().partition("sources:")[0])
    register(spec)
    with pytest.raises(BadInput, match="the spec of other names no sources"):
        intake("other")
