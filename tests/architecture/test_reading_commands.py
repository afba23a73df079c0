"""A command that only reads starts no process, and loads nothing that runs a model or a flow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.orchestration import served
from benchmarks.orchestration.served import MODEL
from infra.settings import Settings

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9/api"  # the discard port: refused at once
HEAVY = frozenset(
    {
        *(
            "torch",
            "onnx",
            "onnxscript",
            "onnxruntime",
            "tensorrt",
            "tensorrt_rtx",
            "transformers",
            "tokenizers",
        ),
        *(
            "mlflow",
            "prefect",
            "fastapi",
            "uvicorn",
            "sqlalchemy",
            "httpx",
            "requests",
            "dask",
            "distributed",
        ),
        *(
            "boto3",
            "botocore",
            "evidently",
            "pandas",
            "scipy",
            "sklearn",
            "pyarrow",
            "matplotlib",
            "plotly",
            "spacy",
        ),
        *(
            "presidio_analyzer",
            "datasketches",
            "safetensors",
            "prometheus_client",
            "jinja2",
            "croniter",
        ),
    }
)
FIGURES = frozenset({"numpy"})
"""What only a command that computes or describes formats may load."""
PROBE = """
import json, runpy, sys
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}
WATCHED = STARTS | {"socket.connect"}
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event in WATCHED else None)
report, sys.argv = sys.argv[1], ["requant", *sys.argv[2:]]
try:
    runpy.run_module("flows.cli", run_name="__main__")
finally:
    packages = {name.partition(".")[0] for name in list(sys.modules)}
    with open(report, "w") as file:
        json.dump({"packages": sorted(packages), "events": seen}, file)
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a fresh process printed, loaded and did."""

    code: int
    output: str
    packages: frozenset[str]
    events: tuple[str, ...]


@pytest.fixture(scope="module")
def full(shared_workspace: Settings) -> Settings:
    """Fill a workspace: a model with a champion, decisions, evidence and lineage."""
    served.prepare(shared_workspace)
    return shared_workspace


def requant(command: str, full: Settings, folder: Path, **variables: str) -> Ran:
    report = folder / "report.json"
    environment = {
        **os.environ,
        "REQUANT_WORKSPACE": str(full.root),
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    arguments = [sys.executable, "-c", PROBE, str(report), *command.split()]
    ended = subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    found = json.loads(report.read_text())
    output = ended.stdout + ended.stderr
    return Ran(ended.returncode, output, frozenset(found["packages"]), tuple(found["events"]))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("status", "version 1"),
        (f"status {MODEL} --json", '"champion"'),
        ("model list", "image-classification"),
        ("model list --json", '"schedule"'),
        (f"history {MODEL}", "Ranges and fidelity are fine"),
        (f"history {MODEL} --json", '"promoted"'),
        (f"lineage {MODEL}", "calibration"),
        (f"lineage {MODEL} --version 1 --json", '"sources"'),
        (f"lineage {MODEL} --export prov", "wasDerivedFrom"),
        ("--help", "Keeps quantized models right"),
    ],
)
def test_reading_loads_neither_servers_nor_models_nor_arrays(
    full: Settings, tmp_path: Path, command: str, says: str
) -> None:
    ran = requant(command, full, tmp_path)
    assert says in ran.output
    assert (ran.code, ran.events) == (0, ())
    assert not ran.packages & (HEAVY | FIGURES)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"explain {MODEL}", "language=3"),
        (f"explain {MODEL} --json", '"since_promotion"'),
        ("recipes", "int8-smooth"),
    ],
)
def test_explaining_loads_arrays_and_nothing_else_that_is_slow(
    full: Settings, tmp_path: Path, command: str, says: str
) -> None:
    ran = requant(command, full, tmp_path)
    assert says in ran.output
    assert (ran.code, ran.events) == (0, ())
    assert not ran.packages & HEAVY


@pytest.mark.parametrize("command", ["status", "history", "explain", "lineage"])
def test_an_unknown_model_is_refused_as_cheaply(
    full: Settings, tmp_path: Path, command: str
) -> None:
    ran = requant(f"{command} nobody", full, tmp_path)
    assert (ran.code, ran.events) == (2, ())
    assert f"no model is called 'nobody' (known: {MODEL})" in ran.output
    assert not ran.packages & HEAVY


def test_the_probe_sees_what_a_command_that_acts_loads_and_reaches(
    full: Settings, tmp_path: Path
) -> None:
    ran = requant(f"requantize {MODEL}", full, tmp_path, REQUANT_PREFECT_API_URL=NOBODY)
    assert f"Prefect does not answer at {NOBODY}" in ran.output
    assert ran.code == 2
    assert "httpx" in ran.packages
    assert "socket.connect" in ran.events
