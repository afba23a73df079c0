"""Traffic by the command line: what serving stacks wrote, and what a scenario makes."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.errors import BadInput
from infra.settings import Settings
from tests.integration.conftest import EXAMPLES

SCENARIO = EXAMPLES / "scenarios" / "exposure-sudden.yaml"


@pytest.fixture(scope="module")
def digits(shared_workspace: Settings) -> Settings:
    """Register the digit classifier in a workspace."""
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    return shared_workspace


def call(*arguments: str) -> Any:
    """Run one command as typed; return the JSON that it printed."""
    from typer.testing import CliRunner

    from flows.cli import app

    done = CliRunner().invoke(app, [*arguments, "--json"])
    if done.exception:
        raise done.exception
    return json.loads(done.stdout)


def write_trace(path: Path) -> Path:
    """Write one image in a Triton trace file."""
    pixels = ",".join(["0.5"] * 64)
    tensor = {"name": "pixels", "data": pixels, "shape": "1,1,8,8", "dtype": "FP32"}
    entries = [
        {"id": 1, "model_name": "digits", "model_version": 1, "request_id": "cam-7"},
        {"id": 1, "timestamps": [{"name": "REQUEST_START", "ns": 2356425054587444}]},
        {"id": 1, "activity": "TENSOR_QUEUE_INPUT", "tensor": tensor},
    ]
    path.write_text(json.dumps(entries))
    return path


def test_a_triton_trace_is_imported_once(digits: Settings, tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.json")
    wanted = ("traffic", "import", str(path), "--model", "digits", "--format", "triton")
    with pytest.raises(BadInput, match="--first-at"):
        call(*wanted)
    taken = [call(*wanted, "--first-at", "2026-01-31T03:00:00Z") for _ in range(2)]
    assert [(one["accepted"], one["duplicates"], one["rejected"]) for one in taken] == [
        (1, 0, 0),
        (0, 1, 0),
    ]
    with pytest.raises(BadInput, match="--first-at is '2026-01-31T03:00:00' without a time zone"):
        call(*wanted, "--first-at", "2026-01-31T03:00:00")


def test_a_scenario_is_replayed_and_the_same_call_again_adds_nothing(digits: Settings) -> None:
    wanted = (
        "traffic",
        "simulate",
        "digits",
        "--scenario",
        str(SCENARIO),
        "--days",
        "4",
        "--rate",
        "5",
        "--seed",
        "2",
    )
    first, again = (call(*wanted, "--until", "2026-02-01T00:00:00Z") for _ in range(2))
    assert (first["accepted"], first["duplicates"]) == (480, 0)
    assert (again["accepted"], again["duplicates"], again["parts"]) == (0, 480, 0)
    with pytest.raises(BadInput, match="--days is 0: it must be more than 0"):
        call("traffic", "simulate", "digits", "--scenario", str(SCENARIO), "--days", "0")
    with pytest.raises(BadInput, match="cannot be read"):
        call("traffic", "simulate", "digits", "--scenario", "nowhere.yaml")


def test_the_replayed_corpus_is_the_specs_own(digits: Settings) -> None:
    from tasks.models.catalog import open_model

    model = open_model("digits")
    assert (len(model.replay), len(model.pool)) == (422, 198)
