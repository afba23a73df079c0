"""The estimate of memory against the peak of a real run, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray
from onnx import helper

from infra.errors import Unavailable
from infra.settings import Settings
from tasks.models.catalog import register
from tests import graphs
from tests.integration.conftest import EXAMPLES, images

ROOT = Path(__file__).parents[2]
FACTOR = 2.0
"""The estimate is at least the peak, and at most so many times the peak."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a spec of a classifier with 76 MB of weights in three hidden layers."""
    folder, rng, sizes = (
        tmp_path_factory.mktemp("wide"),
        np.random.default_rng(0),
        [64, 3072, 3072, 3072, 10],
    )
    nodes, weights = (
        [helper.make_node("Flatten", ["image"], ["h0"], "flat")],
        dict[str, NDArray[np.generic]](),
    )
    for place, (inputs, outputs) in enumerate(pairwise(sizes)):
        weights[f"w{place}"] = rng.standard_normal(
            (inputs, outputs), dtype=np.float32
        ) / np.float32(inputs**0.5)
        result = "logits" if outputs == sizes[-1] else f"p{place}"
        nodes.append(
            helper.make_node("MatMul", [f"h{place}", f"w{place}"], [result], f"layer.{place}")
        )
        nodes.append(helper.make_node("Relu", [result], [f"h{place + 1}"], f"relu.{place}"))
    model = graphs.model(nodes[:-1], weights, {"image": ["n", 1, 8, 8]}, {"logits": ["n", 10]})
    onnx.save(model, folder / "model.onnx")
    for name in ("golden.parquet", "calibration.parquet"):
        shutil.copy(EXAMPLES / "digits" / name, folder)
    document = yaml.safe_load((EXAMPLES / "digits" / "model.yaml").read_text())
    document |= {"name": "wide", "targets": ["onnxruntime-cpu"]}
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return folder / "model.yaml"


def measured(workspace: Path, *arguments: str) -> tuple[int, int]:
    """Estimate and peak, in bytes."""
    command = [sys.executable, "-m", "tests.integration.memory_use", str(workspace), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    return told["estimate"], told["peak"]


def test_the_estimates_hold_within_a_factor(wide: Path, tmp_path: Path) -> None:
    for work in (("register", str(wide)), ("derive", "wide", "int8-smooth")):
        estimate, peak = measured(tmp_path, *work)
        assert peak <= estimate <= FACTOR * peak, (work, estimate, peak)


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(
    wide: Path, workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.processes.memory.available", lambda root: 200_000_000)
    with pytest.raises(
        Unavailable,
        match=r"registering .*model\.onnx needs about 0\.8 GB of memory, .* 0\.2 GB: free",
    ):
        register(wide)
    assert list(workspace.store().list("")) == []


def test_every_heavy_step_is_refused_before_it_starts(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.stores.layout import CALIBRATION
    from tasks.quantization.steps import measure_sensitivity, observe, write_graph
    from tasks.sampling.digest import sample_of
    from tasks.sampling.stored_samples import keep_sample

    register(EXAMPLES / "digits" / "model.yaml")
    calibration = keep_sample(
        workspace.store(), CALIBRATION, "digits", sample_of(images(1.0)[:48], seen=48, dropped={})
    )
    other = keep_sample(
        workspace.store(), CALIBRATION, "digits", sample_of(images(2.0)[:48], seen=48, dropped={})
    )
    observation = observe.fn(calibration)
    monkeypatch.setattr("infra.processes.memory.available", lambda root: 1_000_000)
    before = set(workspace.store().list(""))
    for step in (
        lambda: observe.fn(other),
        lambda: measure_sensitivity.fn(calibration, observation, "int8-mixed-2"),
        lambda: write_graph.fn(calibration, observation, "int8-smooth", None),
    ):
        with pytest.raises(
            Unavailable,
            match=r"quantizing digits needs about .* GB of memory, and this process can",
        ):
            step()
    assert set(workspace.store().list("")) == before
