"""Every recipe on layers that calibration never reached, that saw one value.

Or whose numbers are extreme.

Observed, derived, written, lowered, built and run; TensorRT-RTX, where it is installed, parses and
builds the twin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infra.engines import open_target
from infra.engines.port import Shapes
from infra.errors import BadInput, Unavailable
from tasks.graphs.sites import Site
from tasks.observation.observer import SiteObservation
from tasks.observation.scales import Scales
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.derive import Derived, derive
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import Static
from tasks.quantization.recipe.targets import ONNXRUNTIME, TENSORRT_RTX, why_not
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

Floats = NDArray[np.float32]
RNG = np.random.default_rng(11)
INPUTS, HIDDEN, OUTPUTS = 32, 24, 16
UP = (RNG.standard_normal((INPUTS, HIDDEN)) / INPUTS**0.5).astype(np.float32)
DOWN = (RNG.standard_normal((HIDDEN, OUTPUTS)) / HIDDEN**0.5).astype(np.float32)
X = RNG.standard_normal((128, INPUTS)).astype(np.float32)
PROFILE = {"x": Shapes((1, INPUTS), (8, INPUTS), (128, INPUTS))}
NAMES = [
    name
    for name, recipe in RECIPES.items()
    if recipe.quantized and not recipe.starts_from_champion and recipe.high_precision_sites < 2
]
RUNNABLE = [name for name in NAMES if why_not(RECIPES[name], ONNXRUNTIME) is None]
STATIC = [name for name in RUNNABLE if isinstance(RECIPES[name].activation, Static)]
CLOSE = {"int2": 0.8, "int4": 0.2, "fp8": 0.1, "nvfp4": 0.2}
"""Error of the output, relative to full precision's, by the recipe's first word."""
CLIPS = ("int8-moving-average", "outlier in a weight")
"""The mean of the batches' maxima lies far below the one output of 1e30, and clips it."""


def network(up: Floats = UP, down: Floats = DOWN, bias: float = 0.0) -> onnx.ModelProto:
    """Return relu(x @ up + bias) @ down."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "up"),
        helper.make_node("Add", ["p", "up.bias"], ["q"], "up.add"),
        helper.make_node("Relu", ["q"], ["h"], "relu"),
        helper.make_node("MatMul", ["h", "v"], ["r"], "down"),
        helper.make_node("Add", ["r", "down.bias"], ["y"], "down.add"),
    ]
    weights = {"w": up, "v": down, "up.bias": np.full(up.shape[1], bias, np.float32)}
    weights["down.bias"] = np.linspace(-1, 1, down.shape[1], dtype=np.float32)
    return graphs.model(nodes, weights, {"x": ["n", up.shape[0]]}, {"y": ["n", down.shape[1]]})


def changed(values: Floats, place: object, value: float) -> Floats:
    copy = values.copy()
    copy[place] = value  # type: ignore[call-overload]  # any index
    return copy


CASES: Mapping[str, tuple[onnx.ModelProto, Floats]] = {
    "constant activation": (network(), np.full_like(X, 3.1)),
    "activation of zeros": (network(bias=-1e4), X),
    "tiny activation": (network(), X * np.float32(1e-30)),
    "outlier in a weight": (network(changed(UP, (2, 3), 1e30)), X),
    "channel of zeros": (
        network(changed(UP, (slice(None), 3), 0), changed(DOWN, (slice(None), 5), 0)),
        X,
    ),
    "weight of zeros": (network(down=DOWN * 0), X),
    "one case": (network(), X[:1]),
}


def error(exact: Floats, found: Floats) -> float:
    lost = np.linalg.norm(exact.astype(np.float64) - found)
    return float(lost / max(float(np.linalg.norm(exact.astype(np.float64))), 1e-300))


def engine_outputs(found: Derived, x: Floats) -> Floats:
    target = open_target(ONNXRUNTIME)
    graph = lower(qdq.write(found.plan), target.form)
    onnx.checker.check_model(graph, full_check=True)
    return target.load(target.build(graph.SerializeToString(), PROFILE).plan).run({"x": x})["y"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RUNNABLE)
def test_the_output_stays_right(name: str, case: str) -> None:
    model, x = CASES[case]
    sites, observed = observe(model, x)
    found = derive(model, sites, observed, RECIPES[name], None)
    assert all(np.isfinite(item.error) for item in found.ranking)
    limit = 0.5 if (name, case) == CLIPS else CLOSE.get(name.split("-")[0], 0.06)
    assert error(graphs.run(model, x), engine_outputs(found, x)) < limit


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "name", ["int8-max", "int8-smooth", "int8-gptq", "fp8", "int8-weights", "int4-gptq", "fp16"]
)
def test_tensorrt_rtx_builds_the_twin(name: str, case: str) -> None:
    try:
        target = open_target(TENSORRT_RTX)
    except Unavailable as exc:
        pytest.skip(str(exc))
    model, x = CASES[case]
    sites, observed = observe(model, x)
    graph = lower(qdq.write(derive(model, sites, observed, RECIPES[name], None).plan), target.form)
    assert target.build(graph.SerializeToString(), PROFILE).plan


# --- What is said ---------------------------------------------------------------------------------
# ------------------


def diagnostics(case: str, name: str) -> str:
    model, x = CASES[case]
    sites, observed = observe(model, x)
    return "; ".join(derive(model, sites, observed, RECIPES[name], None).diagnostics)


@pytest.mark.parametrize("name", STATIC)
def test_a_site_that_saw_zeros_alone_stays_in_floating_point_and_is_named(name: str) -> None:
    model, x = CASES["activation of zeros"]
    sites, observed = observe(model, x)
    found = derive(model, sites, observed, RECIPES[name], None)
    assert "down" in found.excluded_nodes
    assert "down" not in found.scales
    assert "down: only seen at zero: they stay in floating point" in "; ".join(found.diagnostics)
    assert error(graphs.run(model, x), engine_outputs(found, x)) < 0.06


def test_a_constant_activation_is_said() -> None:
    assert "up: seen at one magnitude only" in diagnostics("constant activation", "int8-max")


def test_a_range_of_few_values_is_said() -> None:
    assert "calibrated on fewer than 2048 values" in diagnostics("one case", "int8-max")


def test_training_that_too_few_rows_rule_out_is_said() -> None:
    assert "not trained, because too few of their rows" in diagnostics("one case", "int8-trained")


@pytest.mark.parametrize(
    "name", ["int8-max", "int8-mse", "int8-entropy", "int8-moving-average", "int8-smooth", "fp8"]
)
def test_an_outlier_of_an_activation_that_erases_the_rest_is_said(name: str) -> None:
    model, x = network(), changed(X, (3, 4), 1e30)
    sites, observed = observe(model, x)
    found = derive(model, sites, observed, RECIPES[name], None)
    assert np.isfinite(engine_outputs(found, x)).all()
    said = "; ".join(found.diagnostics)
    assert "rounded to zero in their activations by outliers" in said
    assert re.search(
        r"up \((9[5-9]|100)\.\d% of its values, the largest is 1e\+(30|25)\)", said
    )  # 1e5 is the largest factor


def test_a_percentile_clips_an_outlier_and_erases_nothing() -> None:
    model, x = (
        network(),
        changed(RNG.standard_normal((1024, INPUTS)).astype(np.float32), (3, 4), 1e30),
    )
    sites, observed = observe(model, x)
    found = derive(model, sites, observed, RECIPES["int8-percentile"], None)
    assert found.scales["up"].amax < 10
    assert "up (" not in "; ".join(found.diagnostics)


def test_an_outlier_of_a_weight_that_erases_its_channel_is_said_and_other_channels_are_kept() -> (
    None
):
    model, x = CASES["outlier in a weight"]
    assert "up (1 of 24 output channels): rounded to zero in their weights" in diagnostics(
        "outlier in a weight", "int8-max"
    )
    assert "up (24 of 24 output channels)" in diagnostics("outlier in a weight", "int8-per-tensor")
    sites, observed = observe(model, x)
    found = derive(model, sites, observed, RECIPES["int8-weights"], None)
    weight = found.plan.sites[0].weights[0].dequantized()  # type: ignore[union-attr]  # a quantized site
    others = np.arange(HIDDEN) != 3
    assert np.abs(weight[others] - UP.T[others]).max() < np.abs(UP).max() / 127


def test_ordinary_layers_are_passed_over_in_silence() -> None:
    model = network()
    for name in RUNNABLE:
        sites, observed = observe(model, X)
        told = derive(model, sites, observed, RECIPES[name], None).diagnostics
        of_blocks = ("weights in blocks", "whole blocks")  # 24 inputs are none of 16
        of_layers = [text for text in told if not any(words in text for words in of_blocks)]
        assert of_layers == [], name


@pytest.mark.parametrize("extreme", ["weight", "activation", "output"])
def test_what_fp16_cannot_hold_stays_in_float32_and_is_named(extreme: str) -> None:
    up = changed(UP, (2, 3), 1e5) if extreme == "weight" else UP
    x = X * np.float32({"activation": 1e5, "output": 2e4}.get(extreme, 1))
    model = network(up, DOWN / 1e6)
    sites, observed = observe(model, x)
    found = derive(model, sites, observed, RECIPES["fp16"], None)
    assert found.excluded_nodes[0] == "up"
    assert "up" in found.diagnostics[0]
    assert "beyond what fp16 can hold: they stay in fp32" in found.diagnostics[0]
    assert error(graphs.run(model, x), engine_outputs(found, x)) < 1e-2


# --- A layer that calibration never reaches
# -------------------------------------------------------------------------


def experts() -> onnx.ModelProto:
    """Send rows whose first value is positive to one expert, all others to the other: x -> y."""
    nodes = [
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["gate"], "gate.slice"),
        helper.make_node("Greater", ["gate", "threshold"], ["chosen"], "gate.greater"),
        helper.make_node("Squeeze", ["chosen", "one"], ["flat"], "gate.squeeze"),
        helper.make_node("Not", ["flat"], ["rest"], "gate.not"),
        helper.make_node("Cast", ["x"], ["base"], "start.cast", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["base", "start"], ["s"], "start"),
        helper.make_node("Mul", ["s", "none"], ["sum.0"], "start.none"),
    ]
    for place, (mask, name) in enumerate((("flat", "first"), ("rest", "second"))):
        nodes += [
            helper.make_node("NonZero", [mask], [f"{name}.places"], f"{name}.nonzero"),
            helper.make_node(
                "Transpose", [f"{name}.places"], [f"{name}.rows"], f"{name}.transpose", perm=[1, 0]
            ),
            helper.make_node("GatherND", ["x", f"{name}.rows"], [f"{name}.x"], f"{name}.gather"),
            helper.make_node("MatMul", [f"{name}.x", f"{name}.w"], [f"{name}.y"], name),
            helper.make_node(
                "ScatterND",
                [f"sum.{place}", f"{name}.rows", f"{name}.y"],
                ["y" if place else "sum.1"],
                f"{name}.scatter",
            ),
        ]
    square = RNG.standard_normal((3, INPUTS, INPUTS)).astype(np.float32)
    weights: dict[str, NDArray[np.generic]] = {
        "start": square[0],
        "first.w": square[1],
        "second.w": square[2],
        "threshold": np.float32(0),
        "none": np.float32(0),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
    }
    model = graphs.model(nodes, weights, {"x": ["n", INPUTS]}, {"y": ["n", INPUTS]})
    slicing = next(node for node in model.graph.node if node.name == "gate.slice")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    slicing.input[3] = "axis"
    return model


EXPERTS = experts()
POSITIVE = changed(X, (slice(None), 0), 1.0)


def unreached(name: str, deployed: Scales | None = None) -> tuple[tuple[Site, ...], Derived]:
    sites, observed = observe(EXPERTS, POSITIVE)
    assert observed["second"].histogram.total == 0
    return sites, derive(EXPERTS, sites, observed, RECIPES[name], deployed)


@pytest.mark.parametrize("name", STATIC)
def test_a_layer_that_no_case_reached_stays_in_floating_point_and_is_named(name: str) -> None:
    _, found = unreached(name)
    assert "second" in found.excluded_nodes
    assert "second: never reached by the calibration set: they stay in floating point" in "; ".join(
        found.diagnostics
    )
    # On traffic that does reach it, that expert computes what full precision does.
    other = changed(X, (slice(None), 0), -1.0)
    assert error(graphs.run(EXPERTS, other), engine_outputs(found, other)) < 1e-5


@pytest.mark.parametrize("name", ["int8-weights", "int8-dynamic", "int4-gptq", "int4-awq"])
def test_a_recipe_that_fixes_no_range_quantizes_its_weights_all_the_same(name: str) -> None:
    _, found = unreached(name)
    assert found.excluded_nodes == ()
    other = changed(X, (slice(None), 0), -1.0)
    assert error(graphs.run(EXPERTS, other), engine_outputs(found, other)) < 0.2


def test_a_recalibration_keeps_the_champions_range_of_what_today_did_not_reach() -> None:
    sites, both = observe(EXPERTS, X)
    champion = derive(EXPERTS, sites, both, RECIPES["int8-smooth"], None).scales
    _, found = unreached("recalibrate", champion)
    assert found.scales["second"].amax == champion["second"].amax
    assert found.scales["first"].amax != champion["first"].amax
    assert (
        "second: never reached by the calibration set: they keep the champion's range"
        in "; ".join(found.diagnostics)
    )
    assert error(graphs.run(EXPERTS, X), engine_outputs(found, X)) < 0.1


def test_unreached_layers_count_towards_those_that_a_mixed_recipe_keeps() -> None:
    sites, observed = observe(EXPERTS, POSITIVE)
    for losses in (None, {"start": 1.0, "first": 2.0}):
        found = derive(EXPERTS, sites, observed, RECIPES["int8-mixed-2"], None, losses=losses)
        assert len(found.excluded_nodes) == 2
        assert found.excluded_nodes[0] == "second"


def test_where_calibration_saw_nothing_but_zeros_anywhere_a_fixed_range_is_refused() -> None:
    model, x = network(bias=-1e4), np.zeros_like(X)
    sites, observed = observe(model, x)
    with pytest.raises(
        BadInput, match="nothing but zeros at all 2 sites: look at the calibration set, or"
    ):
        derive(model, sites, observed, RECIPES["int8-smooth"], None)
    assert derive(model, sites, observed, RECIPES["int8-weights"], None).excluded_nodes == ()


def test_an_observation_without_any_data_is_refused() -> None:
    sites, observed = observe(network(), X[:0])
    nothing: dict[str, SiteObservation] = observed
    recipe: Recipe = replace(RECIPES["int8-max"], name="any")
    with pytest.raises(BadInput, match="the calibration set is empty"):
        derive(network(), sites, nothing, recipe, None)
