"""The table of what targets can express against the real parser and the real runtime, both ways."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from infra.engines import open_target
from infra.engines.port import Built, Shapes
from infra.errors import Refused
from infra.settings import Settings, settings
from tasks.numerics.formats import NumberFormat
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.targets import (
    FEATURES,
    ONNXRUNTIME,
    TARGETS,
    TENSORRT_RTX,
    expressible,
    require_expressible,
    why_not,
)
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

RNG = np.random.default_rng(0)
WIDTH = 256
MODEL = graphs.product(RNG.standard_normal((WIDTH, 64)).astype(np.float32))
X = RNG.standard_normal((16, WIDTH)).astype(np.float32)
SITES, OBSERVED = observe(MODEL, X)
PROFILE = {"x": Shapes((1, WIDTH), (8, WIDTH), (64, WIDTH))}
ALONE = [
    item
    for item in RECIPES.values()
    if item.quantized and not item.starts_from_champion and not item.high_precision_sites
]
WITHOUT_CACHE = [item for item in ALONE if item.kv_cache is not NumberFormat.FP8]
SHORT = [item for item in ALONE if item.rest is NumberFormat.FP16]
WIDENED = [item for item in SHORT if item.weights.format is not NumberFormat.FP4]


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT_RTX])
@pytest.mark.parametrize(
    "recipe", [item for item in WITHOUT_CACHE if item not in SHORT], ids=lambda recipe: recipe.name
)
def test_a_target_builds_what_the_table_says_it_can_express_and_nothing_else(
    recipe: Recipe, target: str, workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if recipe.weights.format is NumberFormat.FP4:
        monkeypatch.setenv("REQUANT_TENSORRT_RTX_CAPABILITY", "SM120")  # the first that has it
        settings.cache_clear()
    opened = open_target(target)
    graph = lower(qdq.write(derive(MODEL, SITES, OBSERVED, recipe, None).plan), opened.form)
    reason = why_not(recipe, target)
    if reason is None:
        assert opened.build(graph.SerializeToString(), PROFILE).plan
    else:
        with pytest.raises(Refused):
            opened.build(graph.SerializeToString(), PROFILE)


def test_onnx_joins_no_past_and_new_values_in_fp8() -> None:
    """TensorRT-RTX builds such a graph all the same; a release has to be ONNX."""
    kind = onnx.TensorProto.FLOAT8E4M3FN
    tensors = [onnx.helper.make_tensor_value_info(name, kind, ["n"]) for name in ("past", "new")]
    present = onnx.helper.make_tensor_value_info("present", kind, ["m"])
    join = onnx.helper.make_node("Concat", ["past", "new"], ["present"], axis=0)
    graph = onnx.helper.make_graph([join], "cache", tensors, [present])
    opset = onnx.helper.make_opsetid("", onnx.defs.onnx_opset_version())
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    with pytest.raises(onnx.shape_inference.InferenceError, match="unsupported type"):
        onnx.checker.check_model(model, full_check=True)
    assert all("Concat" in str(why_not(RECIPES["fp8-kv"], target)) for target in TARGETS)


def made_by(recipe: Recipe, target: str) -> Built:
    opened = open_target(target)
    graph = lower(qdq.write(derive(MODEL, SITES, OBSERVED, recipe, None).plan), opened.form)
    return opened.build(graph.SerializeToString(), PROFILE)


@pytest.mark.parametrize("recipe", WIDENED, ids=lambda recipe: recipe.name)
def test_what_is_not_quantized_runs_in_fp16_on_tensorrt_and_is_widened_by_onnx_runtime(
    recipe: Recipe,
) -> None:
    assert why_not(recipe, ONNXRUNTIME)
    layers = json.loads(made_by(recipe, ONNXRUNTIME).layers)["layers"]
    products = {layer["precision"] for layer in layers if layer["type"] == "Gemm"}
    assert products == {"FLOAT"}
    printed = json.loads(made_by(recipe, TENSORRT_RTX).layers)["kernels"]
    types = {
        tensor["Datatype"]
        for layer in printed
        if "node_MatMul_0" in layer["Metadata"]
        for part in ("Inputs", "Constants", "Outputs")
        for tensor in layer[part]
    }
    assert "Half" in types


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT_RTX])
def test_every_feature_of_the_table_is_asked_by_some_recipe_or_stated_for_specs(
    target: str,
) -> None:
    unasked = {
        feature.name
        for feature in FEATURES
        if not any(feature.asked_by(recipe) for recipe in ALONE)
    }
    assert unasked <= {
        "asymmetric weights"
    }  # INT8 weights with a zero-point: no shipped recipe wants them


def test_a_recipe_that_a_target_cannot_express_is_refused_with_the_rule() -> None:
    with pytest.raises(
        Refused,
        match=r"int2-block-32: tensorrt-rtx cannot express weight-only INT2: its parser knows",
    ):
        require_expressible(RECIPES["int2-block-32"], (ONNXRUNTIME, TENSORRT_RTX))


def test_a_recipe_that_every_target_can_express_is_accepted() -> None:
    recipe, targets = RECIPES["int4-block-32"], (ONNXRUNTIME, TENSORRT_RTX)
    require_expressible(recipe, targets)
    assert expressible([recipe, RECIPES["int2-block-32"]], targets) == (recipe,)
