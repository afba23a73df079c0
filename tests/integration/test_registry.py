"""The registry on a real MLflow: SQLite, files beside it, and a reader that has nothing of ours."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mlflow.tracking import MlflowClient
from onnx import TensorProto, helper, numpy_helper

from infra.errors import BadInput, NotFound, Unavailable
from infra.registry.cards import Card, DataSet
from infra.registry.registry import NO_CARD, Registry

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def tiny_onnx(scale: float = 2.0) -> bytes:
    """Return y = x * scale [N, 3] and z = ids + 1 [N, T].

    It has two inputs and two symbolic dimensions.
    """
    info, array = helper.make_tensor_value_info, numpy_helper.from_array
    node, floats, integers = helper.make_node, TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        [node("Mul", ["x", "scale"], ["y"]), node("Add", ["ids", "one"], ["z"])],
        "tiny",
        [info("x", floats, ["N", 3]), info("ids", integers, ["N", "T"])],
        [info("y", floats, ["N", 3]), info("z", integers, ["N", "T"])],
        [array(np.array([scale], np.float32), "scale"), array(np.array([1], np.int64), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Change to an empty working directory, so that anything MLflow drops there is seen."""
    folder, before = tmp_path_factory.mktemp("work"), Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        os.chdir(folder)
        yield folder
        os.chdir(before)


@pytest.fixture(scope="module")
def registry(place: Path) -> Registry:
    return Registry(
        f"sqlite:///{place}/state/mlflow.db", artifact_root=(place / "state" / "files").as_uri()
    )


def register(
    registry: Registry, model: str, release: str, scale: float = 2.0, card: Card = NO_CARD
) -> str:
    return registry.register(
        model,
        tiny_onnx(scale),
        release=release,
        tags={"verdict": "passed"},
        run_name=f"candidate {release}",
        metrics={"cosine": 0.99},
        params={"recipe": "minmax"},
        artifacts={"report/gates.json": b"{}", "scales.json": b"[1]"},
        card=card,
    )


def test_a_registered_release_is_read_back_with_its_tags_and_run(registry: Registry) -> None:
    version = register(registry, "readback", "d" * 64)
    found = registry.version("readback", version)
    assert (found.version, found.release) == ("1", "d" * 64)
    assert found.tags["verdict"] == "passed"
    assert found.run_id is not None
    assert registry.artifact(found.run_id, "report/gates.json") == b"{}"
    assert registry.artifact(found.run_id, "scales.json") == b"[1]"


def test_registering_the_same_release_again_gives_the_version_there_is(registry: Registry) -> None:
    first = register(registry, "again", "a" * 64)
    assert register(registry, "again", "a" * 64) == first
    second = register(registry, "again", "b" * 64)
    assert second != first
    assert [one.version for one in registry.versions("again")] == [first, second]


def test_aliases_are_set_moved_and_deleted(registry: Registry) -> None:
    one, two = register(registry, "aliased", "1" * 64), register(registry, "aliased", "2" * 64)
    registry.set_alias("aliased", "champion", one)
    registry.set_alias("aliased", "champion", two)
    registry.set_alias("aliased", "previous", one)
    assert registry.aliases("aliased") == {"champion": two, "previous": one}
    registry.delete_alias("aliased", "previous")
    registry.delete_alias("aliased", "previous")
    assert registry.aliases("aliased") == {"champion": two}


def test_a_model_that_nobody_registered_has_no_aliases_and_no_versions(registry: Registry) -> None:
    assert registry.aliases("unheard-of") == {}
    assert registry.versions("unheard-of") == ()
    registry.delete_alias("unheard-of", "champion")


def test_what_is_not_there_is_not_found(registry: Registry) -> None:
    register(registry, "known", "c" * 64)
    run_id = registry.versions("known")[0].run_id or ""
    for attempt in (
        lambda: registry.version("known", "99"),
        lambda: registry.version("unheard-of", "1"),
        lambda: registry.set_alias("known", "champion", "99"),
        lambda: registry.set_alias("unheard-of", "champion", "1"),
        lambda: registry.artifact(run_id, "no/such.json"),
        lambda: registry.artifact(run_id, "report"),
        lambda: registry.artifact("0" * 32, "scales.json"),
    ):
        with pytest.raises(NotFound):
            attempt()


def test_what_mlflow_cannot_take_is_bad_input(registry: Registry) -> None:
    for attempt in (
        lambda: registry.versions("it's"),
        lambda: register(registry, "a/b", "d" * 64),
        lambda: register(registry, "m", "it's"),
        lambda: registry.log_run("m", "run", {}, {}, {}, {"../../out": b""}),
    ):
        with pytest.raises(BadInput):
            attempt()


@pytest.mark.parametrize("data", [b"", b"no model", b"\x00" * 64])
def test_bytes_that_are_no_model_are_bad_input_and_register_nothing(
    registry: Registry, data: bytes
) -> None:
    with pytest.raises(BadInput, match="ONNX"):
        registry.register(
            "broken",
            data,
            release="e" * 64,
            tags={},
            run_name="r",
            metrics={},
            params={},
            artifacts={},
        )
    assert registry.versions("broken") == ()


def test_runs_nest_and_keep_more_parameters_than_one_request_takes(registry: Registry) -> None:
    parent = registry.log_run("runs", "window", {}, {"drift": 0.5}, {"decision": "keep"}, {})
    many = {f"p{number}": str(number) for number in range(250)}
    child = registry.log_run(
        "runs", "layer", many, dict.fromkeys(many, 1.0), many, {"a.txt": b"1"}, parent=parent
    )
    assert registry.artifact(child, "a.txt") == b"1"
    assert child != parent


def test_threads_may_share_a_registry(registry: Registry) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = set(pool.map(lambda n: register(registry, "threads", f"{n}" * 64), range(4)))
    assert versions == {"1", "2", "3", "4"}


_READER = """
import json, sys
import numpy as np
import mlflow.pyfunc
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/tiny@champion")
for batch in (1, 5):
    feeds = {"x": np.ones((batch, 3), np.float32), "ids": np.zeros((batch, 7), np.int64)}
    out = model.predict(feeds)
    assert out["y"].shape == (batch, 3) and out["z"].shape == (batch, 7)
packages = ("infra", "tasks", "flows", "dashboards")
ours = [name for name in sys.modules if name.split(".")[0] in packages]
print(json.dumps({"y": float(out["y"][0, 0]), "z": int(out["z"][0, 0]), "ours": ours,
                  "inputs": model.metadata.signature.inputs.to_dict()}))
"""


def test_anyone_loads_the_champion_with_nothing_of_ours(
    registry: Registry, place: Path, tmp_path: Path
) -> None:
    register(registry, "tiny", "1" * 64, scale=2.0)
    registry.set_alias("tiny", "champion", register(registry, "tiny", "2" * 64, scale=3.0))
    command = [sys.executable, "-c", _READER, f"sqlite:///{place}/state/mlflow.db"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert (said["y"], said["z"], said["ours"]) == (3.0, 1, [])
    assert [one["tensor-spec"]["shape"] for one in said["inputs"]] == [[-1, 3], [-1, -1]]


def test_the_registered_graph_is_byte_for_byte_the_one_handed_over(
    registry: Registry, place: Path
) -> None:
    register(registry, "bytes", "3" * 64, scale=7.0)
    graphs = [
        path.read_bytes() for path in (place / "state" / "files" / "bytes").rglob("model.onnx")
    ]
    assert graphs == [tiny_onnx(7.0)]


def test_nothing_is_dropped_into_the_working_directory(registry: Registry, place: Path) -> None:
    register(registry, "tidy", "4" * 64)
    beside = Registry(f"sqlite:///{place}/other/mlflow.db")
    register(beside, "tidy", "4" * 64)
    assert sorted(path.name for path in place.iterdir()) == ["other", "state"]
    assert (place / "other" / "artifacts" / "tidy").is_dir()


_FIRST = """
import sys
from infra.registry.registry import Registry
Registry(sys.argv[1]).ping()
"""


def test_two_first_commands_at_once_both_find_a_working_database(
    place: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _FIRST, f"sqlite:///{tmp_path}/new/mlflow.db"]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """Start a real MLflow server process with its own database and files."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    state = f"sqlite:///{place}/state/server.db"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        state,
        "--artifacts-destination",
        str(place / "state" / "served"),
    ]
    Registry(state).ping()  # creates the tables
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until_up(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def wait_until_up(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(600):
        assert process.poll() is None, "the MLflow server ended at once"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.1)
    pytest.fail("the MLflow server did not start within a minute")


def test_through_a_server_everything_works_the_same(server: str, tmp_path: Path) -> None:
    registry = Registry(server)
    registry.ping()
    version = register(registry, "tiny", "5" * 64, scale=5.0)
    assert register(registry, "tiny", "5" * 64, scale=5.0) == version
    registry.set_alias("tiny", "champion", version)
    assert registry.aliases("tiny") == {"champion": version}
    found = registry.version("tiny", version)
    assert registry.artifact(found.run_id or "", "report/gates.json") == b"{}"
    for attempt in (
        lambda: registry.version("tiny", "99"),
        lambda: registry.set_alias("tiny", "champion", "99"),
        lambda: registry.artifact(found.run_id or "", "no/such.json"),
    ):
        with pytest.raises(NotFound):
            attempt()
    run = subprocess.run(
        [sys.executable, "-c", _READER, server], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["y"] == 5.0


# --- what a person sees in its UI
# -------------------------------------------------------------------------------------

CALIBRATION = DataSet(
    "tiny calibration set", "a" * 64, "s3://bucket/calibration/tiny.parquet", "calibration"
)
GOLDEN = DataSet(
    "tiny golden set", "b" * 64, "file:///store/golden.parquet", "evaluation", rows=440
)
CARD = Card(
    kind="text-embedding",
    about_model="A small model.",
    about_version="**int8** passed.",
    model_tags={"task": "text-embedding"},
    data=(CALIBRATION, GOLDEN),
    judged_on=GOLDEN,
)


@pytest.fixture(scope="module", params=["database", "server"])
def seen(request: pytest.FixtureRequest, place: Path) -> tuple[Registry, Any]:
    """Open a registry by its database or a server, and MLflow's own client to look at it with."""
    uri = f"sqlite:///{place}/seen/mlflow.db"
    if request.param == "server":
        uri = request.getfixturevalue("server")
    registry = Registry(uri)
    register(registry, "carded", "7" * 64, card=CARD)
    return registry, MlflowClient(uri, uri)


def test_a_model_says_what_it_is_and_keeps_what_somebody_wrote(seen: tuple[Registry, Any]) -> None:
    registry, client = seen
    model = client.get_registered_model("carded")
    assert (model.description, model.tags) == ("A small model.", {"task": "text-embedding"})
    client.update_registered_model("carded", "Ours. Ask Ann.")
    register(registry, "carded", "8" * 64, card=replace(CARD, model_tags={"task": "other"}))
    model = client.get_registered_model("carded")
    assert (model.description, model.tags) == ("Ours. Ask Ann.", {"task": "other"})


def test_a_version_and_its_run_say_what_they_are(seen: tuple[Registry, Any]) -> None:
    _, client = seen
    version = client.get_model_version("carded", "1")
    assert version.description == CARD.about_version
    assert client.get_run(version.run_id).data.tags["mlflow.note.content"] == CARD.about_version


def test_a_run_names_the_data_that_it_used_and_what_for(seen: tuple[Registry, Any]) -> None:
    _, client = seen
    run = client.get_run(client.get_model_version("carded", "1").run_id)
    used = {
        (
            one.dataset.name,
            one.dataset.digest,
            json.loads(one.dataset.source)["uri"],
            one.tags[0].value,
        )
        for one in run.inputs.dataset_inputs
    }
    assert used == {
        (one.name, one.digest[:32], one.uri, one.context) for one in (CALIBRATION, GOLDEN)
    }
    (golden,) = [
        one.dataset for one in run.inputs.dataset_inputs if one.dataset.name == GOLDEN.name
    ]
    assert json.loads(golden.profile) == {"num_rows": 440}


def test_the_logged_model_leads_to_its_run_and_holds_the_metrics_with_their_data(
    seen: tuple[Registry, Any],
) -> None:
    _, client = seen
    version = client.get_model_version("carded", "1")
    (output,) = client.get_run(version.run_id).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert [str(one["version"]) for one in json.loads(logged.tags["mlflow.modelVersions"])] == ["1"]
    assert (logged.model_type, logged.source_run_id) == ("text-embedding", version.run_id)
    (metric,) = logged.metrics
    assert (metric.key, metric.value) == ("cosine", 0.99)
    assert (metric.dataset_name, metric.dataset_digest) == (GOLDEN.name, GOLDEN.short)
    assert client.get_run(version.run_id).data.metrics == {"cosine": 0.99}


def test_an_experiment_opens_on_runs_and_models_one_of_an_earlier_release_too(
    seen: tuple[Registry, Any],
) -> None:
    registry, client = seen
    client.create_experiment("earlier")
    for model in ("carded", "earlier"):
        registry.log_run(model, "run", {}, {}, {}, {})
        tags = client.get_experiment_by_name(model).tags
        assert tags["mlflow.experimentKind"] == "custom_model_development"
        assert "Requant" in tags["mlflow.note.content"]


def test_tags_of_a_version_are_set_beside_its_others(seen: tuple[Registry, Any]) -> None:
    registry, _ = seen
    registry.set_tags("carded", "1", {"ledger": "3", "ledger.kind": "promoted"})
    registry.set_tags("carded", "1", {"ledger": "4"})
    tags = registry.version("carded", "1").tags
    assert (tags["ledger"], tags["ledger.kind"], tags["verdict"]) == ("4", "promoted", "passed")
    with pytest.raises(NotFound):
        registry.set_tags("carded", "99", {"ledger": "1"})


# --- a registry that fails
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:1",
        "http://user:secret@127.0.0.1:1",
        "postgresql://user:secret@127.0.0.1:1/mlflow",
        "http://[",
    ],
)
def test_a_server_that_is_not_there_is_unavailable_within_seconds_in_one_sentence(
    place: Path, uri: str
) -> None:
    registry, began = Registry(uri), time.monotonic()
    again = partial(register, registry, "m", "d" * 64)
    for attempt in (registry.ping, partial(registry.aliases, "m"), again):
        with pytest.raises(Unavailable, match="start it or correct its address") as caught:
            attempt()
        assert "secret" not in str(caught.value)
    assert time.monotonic() - began < 15


class _Failing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def test_a_server_that_answers_500_is_unavailable_within_seconds(place: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        Registry(f"http://127.0.0.1:{server.server_port}").versions("m")
    server.shutdown()
    server.server_close()
    assert time.monotonic() - began < 20


def test_a_file_that_is_no_database_is_unavailable(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database " * 100)
    with pytest.raises(Unavailable, match="not a database"):
        Registry(f"sqlite:///{tmp_path}/mlflow.db").ping()


def test_lost_files_of_a_run_are_not_found(registry: Registry, place: Path) -> None:
    run_id = registry.log_run("lost", "run", {}, {}, {}, {"a.txt": b"1"})
    (next((place / "state" / "files" / "lost").rglob("a.txt"))).unlink()
    with pytest.raises(NotFound):
        registry.artifact(run_id, "a.txt")


def test_an_artifact_store_that_cannot_be_written_is_unavailable_and_the_run_is_marked_failed(
    place: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=str(tmp_path / "file"))
    with pytest.raises(Unavailable):
        registry.log_run("m", "run", {}, {}, {}, {"a.txt": b"1"})
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("m").experiment_id])
    assert [run.info.status for run in runs] == ["FAILED"]
