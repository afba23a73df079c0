"""What TensorRT-RTX's builder makes of floats in blocks, for the first device that has FP4."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from infra.engines import open_target
from infra.engines.nvidia.inspection import kernels_of
from infra.engines.port import Built, Shapes
from infra.settings import Settings, settings
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.targets import TENSORRT_RTX
from tasks.records import Verdict
from tasks.validation.precision import asked_for, precision_gate
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

pytest.importorskip("tensorrt_rtx")
WIDTH, TOKENS = 64, 6
MODEL = graphs.encoder(WIDTH)
X = np.random.default_rng(0).standard_normal((24, TOKENS, WIDTH)).astype(np.float32)
SITES, OBSERVED = observe(MODEL, X)
PROFILE = {"x": Shapes((1, TOKENS, WIDTH), (8, TOKENS, WIDTH), (64, TOKENS, WIDTH))}


@pytest.fixture(autouse=True)
def blackwell(workspace: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUANT_TENSORRT_RTX_CAPABILITY", "SM120")
    settings.cache_clear()


def made(name: str) -> tuple[onnx.ModelProto, Built]:
    graph = qdq.write(derive(MODEL, SITES, OBSERVED, find_recipe(name), None).plan)
    target = open_target(TENSORRT_RTX)
    return graph, target.build(lower(graph, target.form).SerializeToString(), PROFILE)


@pytest.mark.parametrize(("name", "returned"), [("nvfp4", "Float"), ("nvfp4-fp16", "Half")])
def test_every_product_of_nvfp4_multiplies_fp4(name: str, returned: str) -> None:
    graph, built = made(name)
    products = [
        layer
        for layer in json.loads(built.layers)["kernels"]
        if {"Datatype": "FP4E2M1"} in layer["Constants"]
    ]
    assert {item["Datatype"] for layer in products for item in layer["Outputs"]} == {returned}
    requested = asked_for(graph, SITES)
    assert len(requested) == sum(len(site.layers) for site in SITES) == 12
    assert {item.precision for item in requested} == {"FP4"}
    (gate,) = precision_gate(requested, kernels_of(built.layers), "")
    assert gate.verdict is Verdict.PASSED
    assert gate.reason.endswith(
        "12 of 12 products run as asked, 100.0% of their multiply-accumulates"
    )


def test_no_product_of_mxfp8_multiplies_fp8_and_the_gate_passes_none() -> None:
    graph, built = made("mxfp8")
    (gate,) = precision_gate(asked_for(graph, SITES), kernels_of(built.layers), "")
    assert gate.verdict is not Verdict.PASSED
    assert "0 of 12 products run as asked" in gate.reason


@pytest.mark.parametrize("name", ["nvfp4-weights", "mxfp4-weights"])
def test_weights_alone_are_stored_in_fp4_and_meet_floats(name: str) -> None:
    graph, built = made(name)
    assert asked_for(graph, SITES) == ()
    kernels = json.loads(built.layers)["kernels"]
    stored = [item for layer in kernels for item in layer["Constants"]]
    assert {"Datatype": "FP4E2M1"} in stored
    products = [item.precision for item in kernels_of(built.layers) or () if item.precision]
    assert products
    assert set(products) <= {"FLOAT", "UNKNOWN"}
