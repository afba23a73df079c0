"""`requant model add` says what each class of recipes takes of a model on each target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.settings import Settings, settings
from tasks.quantization.target_coverage import RecipeCoverage, short_of_int8, unusable_targets
from tests.custom_models import ranker, records, write_model

pytest.importorskip("tensorrt_rtx")
TARGETS = ["onnxruntime-cpu", "tensorrt-rtx"]


def added(spec: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    from flows.cli import app

    with pytest.raises(SystemExit) as ended:
        app(["model", "add", str(spec), *options])
    assert not ended.value.code
    return capsys.readouterr().out


def test_every_class_has_a_line_for_every_target(
    workspace: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_model(tmp_path, ranker(), records(64), targets=TARGETS)
    out = added(spec, capsys)
    assert "int8 on onnxruntime-cpu: 3 layers, 92.5% of the weights" in out
    assert "fp16 on tensorrt-rtx: 3 layers, 100.0% of the weights" in out
    document = json.loads(added(spec, capsys, "--json"))
    lines = {(item["target"], item["recipes"]): item for item in document["by target"]}
    assert len(lines) == 12
    nvfp4 = lines.pop(("tensorrt-rtx", "nvfp4"))
    assert "does not build MatMul layers of its formats for SM89" in nvfp4["refused"]
    assert all(item["refused"] is None for item in lines.values())
    assert lines["tensorrt-rtx", "int8"]["left"][0]["op"] == "Gather"


def test_a_graph_of_which_too_little_can_run_in_int8_is_told_before_anything_is_built() -> None:
    covered = [
        RecipeCoverage("onnxruntime-cpu", recipes, None, 1, 0.02, products, ())
        for recipes, products in (("int8", 0.017), ("int8", None), ("int8", 0.9), ("fp8", 0.017))
    ]
    [sentence] = short_of_int8(covered, 0.8)
    assert sentence == (
        "int8 on onnxruntime-cpu takes 1.7% of the products, and budgets.int8_fraction asks for "
        "80%: no release of it will pass"
    )


def test_what_a_device_has_not_is_refused_in_the_builders_words(
    workspace: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUANT_TENSORRT_RTX_CAPABILITY", "SM75")
    settings.cache_clear()
    out = added(write_model(tmp_path, ranker(), records(64), targets=TARGETS), capsys)
    assert "int4-weights on tensorrt-rtx: none, because tensorrt-rtx does not build MatMul" in out
    assert "int8 on tensorrt-rtx: 3 layers" in out  # with FP16 for the rest


def test_a_target_that_this_host_cannot_use_is_named_with_the_reason(
    workspace: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = ["onnxruntime-cpu", "onnxruntime-cuda", "tensorrt-rtx"]
    lacking = unusable_targets(targets)
    if "onnxruntime-cuda" not in lacking:
        pytest.skip("this host has a device")
    spec = write_model(tmp_path, ranker(), records(64), targets=targets)
    out = added(spec, capsys)
    assert "not usable here: onnxruntime-cuda: target onnxruntime-cuda cannot be used here" in out
    assert "no run of the model comes to its end on this host" in out
    assert "not usable here: tensorrt-rtx: no CUDA device is visible" in out
    assert "not usable here: onnxruntime-cpu" not in out
    document = json.loads(added(spec, capsys, "--json"))
    assert document["not usable here"] == dict(lacking)
