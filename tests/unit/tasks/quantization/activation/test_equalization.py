"""Cross-layer equalization: the same function, even ranges."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.graphs.sites import layer_weight
from tasks.numerics.quantizer import Quantizer
from tasks.quantization.activation.equalization import LIMIT, input_ranges, smoothing_scales
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.derive import Derived, derive
from tasks.quantization.recipe.catalog import find_recipe
from tests import graphs
from tests.plans import from_scales
from tests.unit.tasks.quantization.observations import observe

X = np.random.default_rng(3).standard_normal((16, 3, 8, 8)).astype(np.float32)
RANGES = arrays(np.float32, 6, elements=st.floats(np.float32(1e-3), np.float32(1e3), width=32))
ANY = arrays(np.float32, 6, elements=st.floats(0, np.float32(3e38), width=32))


def test_smoothing_scales_are_the_papers_equation_11() -> None:
    assert smoothing_scales(
        np.array([8, 2], np.float32), np.array([2, 8], np.float32)
    ) == pytest.approx([2, 0.5])


@given(RANGES, RANGES)
def test_both_layers_end_with_the_geometric_mean_of_their_ranges(
    before: np.ndarray, after: np.ndarray
) -> None:
    s = smoothing_scales(before, after)
    assert before / s == pytest.approx(np.sqrt(before * after), rel=1e-4)
    assert after * s == pytest.approx(np.sqrt(before * after), rel=1e-4)


@given(ANY, ANY)
def test_smoothing_scales_are_positive_and_bounded_whatever_the_ranges(
    before: np.ndarray, after: np.ndarray
) -> None:
    with np.errstate(all="raise"):
        s = smoothing_scales(before, after)
    assert np.isfinite(s).all()
    assert (s >= np.float32(0.99 / LIMIT)).all()
    assert (s <= np.float32(1.01 * LIMIT)).all()


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0), (0, 0)])
def test_a_dead_channel_is_left_alone(before: float, after: float) -> None:
    assert smoothing_scales(
        np.array([before, 4], np.float32), np.array([after, 1], np.float32)
    ) == pytest.approx([1, 2])


def test_two_layers_with_a_relu_between_compute_what_they_did() -> None:
    rng = np.random.default_rng(0)
    first = (rng.standard_normal((6, 5)) * rng.lognormal(0, 2, 6)[:, None]).astype(np.float32)
    second, x = (
        rng.standard_normal((3, 6)).astype(np.float32),
        rng.standard_normal((20, 5)).astype(np.float32),
    )
    s = smoothing_scales(np.abs(first).max(axis=1), input_ranges([second], 6))
    found = np.maximum(x @ (first / s[:, None]).T, 0) @ (second * s).T
    assert found == pytest.approx(np.maximum(x @ first.T, 0) @ second.T, rel=1e-4, abs=1e-4)
    assert np.abs(first / s[:, None]).max(axis=1) == pytest.approx(
        input_ranges([second * s], 6), rel=1e-5
    )


def test_ranges_of_convolutions_are_by_channel() -> None:
    weight = np.zeros((2, 3, 3, 3), np.float32)
    weight[1, 2, 0, 0], weight[0, 1, 2, 2] = -5, 3
    assert input_ranges([weight], 3).tolist() == [0, 3, 5]


def test_layers_that_share_an_input_count_together() -> None:
    first, second = (
        np.array([[1.0, -4.0]], np.float32),
        np.array([[2.0, 3.0], [0.0, 0.0]], np.float32),
    )
    assert input_ranges([first, second], 2).tolist() == [2, 4]


# --- The recipe on convolutions
# ---------------------------------------------------------------------------------------


def quantized(model: onnx.ModelProto, recipe: str) -> Derived:
    sites, observed = observe(model, X)
    return derive(model, sites, observed, find_recipe(recipe), None)


@pytest.mark.parametrize("grouped", [False, True], ids=["dense", "in groups"])
def test_smoothing_scales_between_two_convolutions_are_folded_over_the_relu(grouped: bool) -> None:
    model = graphs.convolutions(grouped=grouped)
    found = quantized(model, "int8-equalized")
    smoothing_scales = found.scales["second"].smoothing_scales
    assert smoothing_scales is not None
    assert smoothing_scales.max() > 3 * smoothing_scales.min()
    before, after = (
        {item.name: onnx.numpy_helper.to_array(item) for item in one.graph.initializer}
        for one in (model, found.plan.model)
    )
    assert after["first.weight"] == pytest.approx(
        before["first.weight"] / smoothing_scales.reshape(-1, 1, 1, 1)
    )
    assert after["first.bias"] == pytest.approx(before["first.bias"] / smoothing_scales)
    assert not [node for node in qdq.write(found.plan).graph.node if node.op_type == "Mul"]


@pytest.mark.parametrize("grouped", [False, True], ids=["dense", "in groups"])
def test_equalized_convolutions_compute_the_same_function_and_lose_less_to_int8(
    grouped: bool,
) -> None:
    model = graphs.convolutions(grouped=grouped)
    exact = graphs.run(model, X)

    def lost(recipe: str) -> float:
        found = graphs.run(lower(qdq.write(quantized(model, recipe).plan), "u8"), X)
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    assert lost("int8-equalized") < 0.5 * lost("int8-max")


def test_channels_of_an_activation_between_convolutions_end_with_the_range_of_their_weights() -> (
    None
):
    model = graphs.convolutions()
    found = quantized(model, "int8-equalized")
    sites, observed = observe(found.plan.model, X)
    second = next(site for site in sites if site.name == "second")
    smoothing_scales = found.scales["second"].smoothing_scales
    assert smoothing_scales is not None
    ranges = input_ranges(
        [layer_weight(model, second.layers[0]) * smoothing_scales.reshape(-1, 1, 1)], 8
    )
    assert observed["second"].channel_amax == pytest.approx(ranges, rel=1e-4)
    spread = observe(model, X)[1]["second"].channel_amax
    even = observed["second"].channel_amax
    assert even.max() / even.min() < 0.2 * spread.max() / spread.min()


def test_the_range_detector_compares_with_what_the_equalized_quantizer_sees() -> None:
    model = graphs.convolutions()
    found = quantized(model, "int8-equalized")
    _, observed = observe(found.plan.model, X)
    seen, real = found.reference["second"], observed["second"].histogram
    assert seen.amax == pytest.approx(real.amax, rel=1e-5)
    for level in (0.1, 0.3, 1.0):
        assert seen.fraction_above(level) == pytest.approx(real.fraction_above(level), abs=0.08)
    assert all(item.error < 0.05 for item in found.ranking)


@pytest.mark.parametrize("recipe", ["recalibrate", "recalibrate-mse"])
def test_an_equalized_champion_is_recalibrated_with_its_factors(recipe: str) -> None:
    model = graphs.convolutions()
    champion = quantized(model, "int8-equalized").scales
    sites, observed = observe(model, X)
    found = derive(model, sites, observed, find_recipe(recipe), champion)
    assert champion["second"].smoothing_scales is not None
    assert found.scales["second"].smoothing_scales is not None
    assert np.array_equal(
        found.scales["second"].smoothing_scales, champion["second"].smoothing_scales
    )
    again = graphs.run(lower(qdq.write(found.plan), "u8"), X)
    exact = graphs.run(model, X)
    assert np.linalg.norm(again - exact) < 0.05 * np.linalg.norm(exact)


@pytest.mark.parametrize("spatial", [1, 2])
def test_smoothing_scales_that_are_not_folded_divide_images_of_any_dimension(spatial: int) -> None:
    rng, size = np.random.default_rng(0), [6] * spatial
    node = onnx.helper.make_node("Conv", ["x", "conv.weight"], ["y"], "node_conv")
    kernel = rng.standard_normal((4, 3, *[3] * spatial)).astype(np.float32)
    shapes = {"x": ["n", 3, *size]}, {"y": ["n", 4, *[4] * spatial]}
    model = graphs.model([node], {"conv.weight": kernel}, *shapes)
    x = rng.standard_normal((8, 3, *size)).astype(np.float32)
    sites, observed = observe(model, x)
    by = np.array([0.5, 1.0, 2.0], np.float32)
    scales = {"conv": Quantizer(float((observed["conv"].channel_amax / by).max()), by)}
    found, exact = (
        graphs.run(lower(qdq.write(from_scales(model, sites, scales)), "u8"), x),
        graphs.run(model, x),
    )
    assert found.shape == exact.shape
    assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)
