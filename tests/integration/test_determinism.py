"""The same data give the same bytes, whatever the process, hash seed, threads and batch size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import EXAMPLES

ROOT = Path(__file__).parents[2]
RUNS = [("0", "1", "16"), ("7", "2", "7"), ("1", "2", "1"), ("2", "1", "32")]
"""Hash seed, threads and batch; the first is what the others are held against."""
RECIPES = ["int8-smooth", "int8-gptq", "int8-trained", "int8-compact", "int4-awq"]

pytestmark = pytest.mark.timeout(900)


def made(folder: Path, spec: Path, run: tuple[str, str, str], recipes: list[str]) -> dict[str, str]:
    """Return the digests of everything that one process made."""
    seed, threads, batch = run
    pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    arguments = [str(spec), str(folder / "-".join(run)), threads, batch, *recipes]
    command = [sys.executable, "-m", "tests.integration.derivation", *arguments]
    environment = {**os.environ, **pools, "PYTHONHASHSEED": seed}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_a_classifier_is_quantized_to_the_same_bytes_by_every_process(tmp_path: Path) -> None:
    spec = EXAMPLES / "digits" / "model.yaml"
    first = made(tmp_path, spec, RUNS[0], RECIPES)
    for run in RUNS[1:]:
        assert made(tmp_path, spec, run, RECIPES) == first


def test_a_transformer_is_quantized_to_the_same_bytes_by_every_process(tmp_path: Path) -> None:
    """Of MiniLM texts of unlike length: with the batch, the padding of each text changes too."""
    spec, recipes = EXAMPLES / "minilm" / "model.yaml", ["int8-smooth", "int8-gptq"]
    first = made(tmp_path, spec, RUNS[0], recipes)
    assert made(tmp_path, spec, RUNS[2], recipes) == first
