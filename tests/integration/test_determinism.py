"""The same data give the same bytes, whatever the process, hash seed, threads and batch size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.conftest import EXAMPLES
from tests.integration.test_gateway import write_speaker

ROOT = Path(__file__).parents[2]
FIRST, OTHER = ("0", "1", "16"), ("7", "2", "7")
FURTHER = [("1", "2", "1"), ("2", "1", "32")]
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


def differing(
    folder: Path, spec: Path, runs: Sequence[tuple[str, str, str]], recipes: list[str]
) -> list[tuple[str, str, str]]:
    """Return the processes that make something else than the first one does."""
    first = made(folder, spec, FIRST, recipes)
    return [run for run in runs if made(folder, spec, run, recipes) != first]


def test_a_classifier_is_quantized_to_the_same_bytes_by_every_process(tmp_path: Path) -> None:
    assert not differing(tmp_path, EXAMPLES / "digits" / "model.yaml", [OTHER], RECIPES)


def test_a_small_transformer_is_quantized_to_the_same_bytes_by_every_process(
    tmp_path: Path,
) -> None:
    """Of texts of unlike length: with the batch, the padding of each text changes too."""
    spec = write_speaker(tmp_path / "speaker")
    assert not differing(tmp_path, spec, [OTHER], ["int8-smooth", "int8-gptq"])


@pytest.mark.soak
def test_a_classifier_is_quantized_alike_by_further_processes(tmp_path: Path) -> None:
    assert not differing(tmp_path, EXAMPLES / "digits" / "model.yaml", FURTHER, RECIPES)


@pytest.mark.soak
def test_minilm_is_quantized_to_the_same_bytes_by_every_process(tmp_path: Path) -> None:
    spec = EXAMPLES / "minilm" / "model.yaml"
    assert not differing(tmp_path, spec, [FURTHER[0]], ["int8-smooth", "int8-gptq"])
