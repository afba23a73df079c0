"""Models and traffic that cannot be quantized soundly: one sentence, or diagnostics."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray
from onnx import helper

from infra.errors import BadInput
from infra.settings import Settings
from tasks.models.catalog import register
from tasks.records import Request
from tests import graphs
from tests.integration.conftest import EXAMPLES, images, serve

pytestmark = pytest.mark.timeout(300)
Floats = NDArray[np.float32]
Spec = Callable[..., Path]


def classifier(first: Floats, bias: float = 0.0) -> onnx.ModelProto:
    """Return a model from images to logits: relu(x @ first + bias) @ second."""
    second = np.random.default_rng(1).standard_normal((first.shape[1], 10)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["x"], "flat"),
        helper.make_node("MatMul", ["x", "w"], ["p"], "up"),
        helper.make_node("Add", ["p", "up.bias"], ["q"], "up.add"),
        helper.make_node("Relu", ["q"], ["h"], "relu"),
        helper.make_node("MatMul", ["h", "v"], ["logits"], "down"),
    ]
    weights = {"w": first, "v": second, "up.bias": np.full(first.shape[1], bias, np.float32)}
    return graphs.model(nodes, weights, {"image": ["n", 1, 8, 8]}, {"logits": ["n", 10]})


UP = (np.random.default_rng(0).standard_normal((64, 24)) / 8).astype(np.float32)


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """Write a folder with a ready graph and the digits' data, under a name of its own."""

    def write(name: str, model: onnx.ModelProto, **save: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in ("golden.parquet", "calibration.parquet"):
            shutil.copy(EXAMPLES / "digits" / file, folder)
        onnx.save(model, folder / "model.onnx", **save)  # type: ignore[arg-type]  # options of its own
        document = yaml.safe_load((EXAMPLES / "digits" / "model.yaml").read_text())
        document |= {"name": name, "control": None, "window": {"minimum_rows": 1, "sample": 64}}
        (folder / "model.yaml").write_text(yaml.safe_dump(document))
        return folder / "model.yaml"

    return write


def traffic(magnitude: float = 1.0, count: int = 64) -> list[Request]:
    return images(magnitude)[:count]


def said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    from flows.cli import main

    monkeypatch.setattr(sys, "argv", ["requant", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def test_a_graph_whose_layers_are_all_in_a_loop_is_refused_and_nothing_is_stored(
    workspace: Settings,
    spec: Spec,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.unit.tasks.graphs.test_operators import loop

    inner = loop()
    inner.graph.node.insert(0, helper.make_node("Flatten", ["image"], ["x"], "flat"))
    inner.graph.node[1].output[0] = "logits"
    inner.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])
    )
    inner.graph.output[0].name = "logits"
    path = spec("loops", inner)
    document = yaml.safe_load(path.read_text()) | {"targets": ["onnxruntime-cpu"]}
    path.write_text(yaml.safe_dump(document))
    code, _, told = said(
        capsys, monkeypatch, "--workspace", str(workspace.root), "model", "add", str(path)
    )
    assert code == 2
    assert "requant: source: the graph has no matrix product or convolution with constant" in told
    assert "repeat (Loop, 16 weights): layers in loops stay in floating point" in told
    assert list(workspace.store().list("")) == []


def test_weights_beside_the_graph_are_registered(workspace: Settings, spec: Spec) -> None:
    inside = register(spec("inside", classifier(UP)))
    beside = register(
        spec(
            "beside", classifier(UP), save_as_external_data=True, location="w.bin", size_threshold=0
        )
    )
    image = np.random.default_rng(2).random((3, 1, 8, 8), dtype=np.float32)
    assert np.array_equal(
        beside.reference.run({"image": image})["logits"],
        inside.reference.run({"image": image})["logits"],
    )


def test_overflowing_activations_name_site_and_request_and_leave_no_observation(
    loop: Settings, spec: Spec
) -> None:
    from flows.requantize import requantize

    register(spec("overflows", classifier(UP)))
    requests = traffic()
    for place in range(5, len(requests), 3):  # fewer would be set aside
        broken = np.full((1, 8, 8), 3e38, np.float32)
        broken.flat[: place % 31] = 0
        requests[place] = replace(requests[place], payload=broken)
    serve(loop, "overflows", 0, requests)
    with pytest.raises(
        BadInput, match=r"site down saw \d+ infinite or NaN activations, .* request '0-"
    ) as caught:
        requantize("overflows", recipe="int8-max")
    assert "take these requests out of the traffic, or mend the model" in str(caught.value)
    assert not list(loop.store().list("observations/overflows"))


def test_a_dead_layer_stays_in_floating_point_from_the_command_to_the_release(
    loop: Settings, spec: Spec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(spec("dead", classifier(UP, bias=-1e4)))
    serve(loop, "dead", 0, traffic())
    arguments = (
        "--workspace",
        str(loop.root),
        "requantize",
        "dead",
        "--recipe",
        "int8-max",
        "--json",
    )
    _, out, err = said(capsys, monkeypatch, *arguments)
    outcome = json.loads(out)
    (candidate,) = outcome["candidates"]
    assert any(
        one.startswith("down: only seen at zero: they stay in floating point")
        for one in candidate["diagnostics"]
    ), err
    release = loop.release("dead", outcome["release"])
    assert release.facts["kept_high"] == ["down"]
    assert release.facts["remarks"] == candidate["diagnostics"]


def test_a_dead_layer_is_passed_over_where_sensitivity_is_measured(
    loop: Settings, spec: Spec
) -> None:
    from flows.requantize import requantize

    register(spec("mixed", classifier(UP, bias=-1e4)))
    serve(loop, "mixed", 0, traffic())
    outcome = requantize("mixed", recipe="int8-mixed-1")
    assert outcome.release is not None
    assert loop.release("mixed", outcome.release).facts["kept_high"] == ["down"]


def test_one_request_is_enough_to_quantize_and_its_thinness_is_said(
    loop: Settings, spec: Spec
) -> None:
    from flows.requantize import requantize

    path = spec("single", classifier(UP))
    import pyarrow.parquet as pq

    pool = path.parent / "calibration.parquet"
    pq.write_table(pq.read_table(pool).slice(0, 1), pool)
    register(path)
    serve(loop, "single", 0, traffic(count=1))
    outcome = requantize("single", recipe="int8-smooth")
    assert outcome.candidates[0].reports
    assert any(
        "calibrated on fewer than 2048 values" in one for one in outcome.candidates[0].diagnostics
    )
