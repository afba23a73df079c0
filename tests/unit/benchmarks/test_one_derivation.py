"""What a derivation says that it needs, beside what its process then takes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.watched import watched
from benchmarks.language import random_llama

SHAPE = random_llama.LlamaShape(1024, 4096, 2, 8, 2, 16_000)


@pytest.mark.parametrize(
    "recipe",
    [
        "int8-smooth",
        pytest.param("int4-gptq", marks=pytest.mark.soak),
        pytest.param("fp8", marks=pytest.mark.soak),
        pytest.param("int4-block-32", marks=pytest.mark.soak),
    ],
)
def test_the_estimate_is_near_the_peak(recipe: str, tmp_path: Path) -> None:
    source, ids = tmp_path / "source", tmp_path / "ids.npy"
    source.mkdir()
    random_llama.write(source, SHAPE)
    np.save(ids, np.random.default_rng(0).integers(0, SHAPE.words, (8, 128)))
    command = [sys.executable, "-m", "benchmarks.language.one_derivation"]
    ran = watched([*command, str(source), str(ids), str(tmp_path / "out"), recipe])
    estimated = json.loads(ran.output.splitlines()[-1])["estimated"]
    assert 0.8 <= estimated / ran.resident <= 1.25
