"""Bias correction: what is left of the mean error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat
from tasks.numerics.quantized_weight import WeightScheme, quantize, summed
from tasks.numerics.quantizer import Quantizer, fake_quantize
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.weight import rounding
from tasks.quantization.weight.bias_correction import correction
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

QUANTIZERS = {
    "weight-only": None,
    "symmetric": Quantizer(2.0),
    "asymmetric": Quantizer(4.0, bounds=(-0.5, 4.0)),
    "fp8": Quantizer(4.0, format=NumberFormat.FP8),
}


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_corrected_output_has_the_mean_of_the_exact_one(
    quantizer: Quantizer | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.gamma(1.0, 1.0, (50, 12)).astype(np.float32)
    weight = rng.standard_normal((7, 12)).astype(np.float32)
    rounded = quantize(weight, WeightScheme(NumberFormat.INT4)).dequantized()
    seen = rows if quantizer is None else fake_quantize(rows, quantizer)
    corrected = seen @ rounded.T + correction(rows, weight, rounded, quantizer)
    assert corrected.mean(axis=0) == pytest.approx((rows @ weight.T).mean(axis=0), abs=1e-4)


def test_what_is_exact_needs_no_correction() -> None:
    rows, weight = np.ones((3, 4), np.float32), np.eye(4, dtype=np.float32)
    assert not correction(rows, weight, weight, None).any()
    assert correction(rows, weight, weight, Quantizer(127.0)) == pytest.approx(np.zeros(4))


def test_a_known_shift_is_found() -> None:
    rows = np.array([[1.0, 0.4], [3.0, 0.4]], np.float32)
    weight = np.array([[1.0, 1.0]], np.float32)
    # A step of 1 rounds 0.4 away: 0.4 of every output is lost.
    assert correction(rows, weight, weight, Quantizer(127.0)) == pytest.approx([0.4])


def test_no_rows_are_bad_input() -> None:
    with pytest.raises(BadInput, match="observed rows"):
        correction(
            np.zeros((0, 4), np.float32),
            np.eye(4, dtype=np.float32),
            np.eye(4, dtype=np.float32),
            None,
        )


# --- The recipe on whole graphs
# ---------------------------------------------------------------------------------------


def mean_error(model: onnx.ModelProto, x: np.ndarray, recipe: str) -> np.ndarray:
    """Return the mean error of the output by channel: axis 1 of images, the last one otherwise."""
    sites, observed = observe(model, x)
    found = graphs.run(
        lower(qdq.write(derive(model, sites, observed, find_recipe(recipe), None).plan), "u8"), x
    )
    channels = 1 if found.ndim > 2 else -1
    return (
        np.moveaxis(found - graphs.run(model, x), channels, -1)
        .reshape(-1, found.shape[channels])
        .mean(axis=0)
    )


def skewed(shape: tuple[int, ...]) -> np.ndarray:
    """Positive values of few levels near zero, whose rounding errors do not average out."""
    return np.random.default_rng(1).gamma(0.5, 1.0, shape).astype(np.float32)


def product() -> tuple[onnx.ModelProto, np.ndarray]:
    weight = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
    weight[0] *= 20  # one input sets the steps of all
    return graphs.product(weight), skewed((128, 32))


def dense_convolution() -> tuple[onnx.ModelProto, np.ndarray]:
    kernel = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32)
    kernel[:, 0] *= 20
    return graphs.convolution(kernel, size=8), skewed((64, 4, 8, 8))


def convolution_in_one_dimension() -> tuple[onnx.ModelProto, np.ndarray]:
    kernel = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32)
    kernel[:, 0] *= 20
    node = graphs.helper.make_node("Conv", ["x", "conv.weight"], ["y"], "conv", group=2)
    return (
        graphs.model([node], {"conv.weight": kernel}, {"x": ["n", 4, 20]}, {"y": ["n", 6, 18]}),
        skewed((64, 4, 20)),
    )


@pytest.mark.parametrize("make", [product, dense_convolution, convolution_in_one_dimension])
def test_the_recipe_lowers_the_mean_error_of_the_output(
    make: Callable[[], tuple[onnx.ModelProto, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = make()
    monkeypatch.setattr(rounding, "LARGE_MEAN", np.inf)  # or int8-max corrects the product, too
    before, after = (
        np.abs(mean_error(model, x, name)).mean() for name in ("int8-max", "int8-bias-corrected")
    )
    assert after < 0.4 * before


def test_a_plain_recipe_takes_off_a_mean_that_is_much_of_the_error() -> None:
    model, _ = product()
    varied = np.random.default_rng(2).standard_normal((512, 32)).astype(np.float32)
    sites, observed = observe(model, 1 + 0.1 * varied)
    (site,) = derive(model, sites, observed, find_recipe("int8-max"), None).plan.sites
    assert site.corrections is not None
    sites, observed = observe(model, varied)
    (site,) = derive(model, sites, observed, find_recipe("int8-max"), None).plan.sites
    assert site.corrections is None


@pytest.mark.parametrize("way", ["Conv", "Conv without a bias", "Gemm", "MatMul and Add"])
def test_a_correction_goes_into_the_bias(way: str) -> None:
    model, x = with_bias(way)
    sites, observed = observe(model, x)
    plan = derive(model, sites, observed, find_recipe("int8-bias-corrected"), None).plan
    graph = qdq.write(plan)
    assert not [node for node in graph.graph.node if node.name.endswith(".correct")]
    uncorrected = replace(plan, sites=tuple(replace(item, corrections=None) for item in plan.sites))
    (correction,) = plan.sites[0].corrections
    gained = graphs.run(graph, x) - graphs.run(qdq.write(uncorrected), x)
    shape = (1, -1, 1, 1) if x.ndim > 2 else (1, -1)
    assert gained == pytest.approx(
        np.broadcast_to(correction.reshape(shape), gained.shape), abs=2e-4
    )


def with_bias(way: str) -> tuple[onnx.ModelProto, np.ndarray]:
    rng = np.random.default_rng(0)
    bias = rng.standard_normal(8).astype(np.float32)
    if way.startswith("Conv"):
        kernel = rng.standard_normal((8, 4, 3, 3)).astype(np.float32)
        inputs, own = (
            (["x", "k", "b"], {"k": kernel, "b": bias})
            if way == "Conv"
            else (
                ["x", "k"],
                {"k": kernel},
            )
        )
        nodes = [graphs.helper.make_node("Conv", inputs, ["y"], "conv")]
        return (
            graphs.model(nodes, own, {"x": ["n", 4, 8, 8]}, {"y": ["n", 8, 6, 6]}),
            skewed((16, 4, 8, 8)),
        )
    weight = rng.standard_normal((32, 8)).astype(np.float32)
    nodes = (
        [graphs.helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc")]
        if way == "Gemm"
        else [
            graphs.helper.make_node("MatMul", ["x", "w"], ["p"], "fc"),
            graphs.helper.make_node("Add", ["b", "p"], ["y"], "add"),
        ]
    )
    return (
        graphs.model(nodes, {"w": weight, "b": bias}, {"x": ["n", 32]}, {"y": ["n", 8]}),
        skewed((128, 32)),
    )


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_kernel_summed_is_what_the_convolution_makes_of_a_flat_image(groups: int) -> None:
    rng = np.random.default_rng(groups)
    weight, channels = (
        rng.standard_normal((8, 4 // groups, 3, 3)).astype(np.float32),
        rng.standard_normal(4),
    )
    node = graphs.helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=groups)
    model = graphs.model([node], {"w": weight}, {"x": ["n", 4, 3, 3]}, {"y": ["n", 8, 1, 1]})
    flat = np.broadcast_to(channels.astype(np.float32)[None, :, None, None], (1, 4, 3, 3))
    found = graphs.run(model, np.ascontiguousarray(flat)).reshape(-1)
    assert summed(weight, 4) @ channels == pytest.approx(found, rel=1e-4, abs=1e-5)


def test_a_tensor_read_along_two_axes_is_not_corrected_and_named() -> None:
    nodes = [
        graphs.helper.make_node("MatMul", ["x", "w"], ["p"], "m"),
        graphs.helper.make_node("Conv", ["x", "k"], ["y"], "c"),
    ]
    weights = {"w": np.eye(6, dtype=np.float32), "k": np.ones((5, 3, 2, 2), np.float32)}
    model = graphs.model(
        nodes, weights, {"x": ["n", 3, 6, 6]}, {"y": ["n", 5, 5, 5], "p": ["n", 3, 6, 6]}
    )
    sites, observed = observe(model, skewed((4, 3, 6, 6)))
    diagnostics = derive(
        model, sites, observed, find_recipe("int8-bias-corrected"), None
    ).diagnostics
    assert any(sites[0].name in one and "not corrected" in one for one in diagnostics)


def test_what_is_corrected_is_not_named() -> None:
    model, x = dense_convolution()
    sites, observed = observe(model, x)
    diagnostics = derive(
        model, sites, observed, find_recipe("int8-bias-corrected"), None
    ).diagnostics
    assert not any("not corrected" in one for one in diagnostics)
