"""The Q/DQ graph against numpy, ONNX Runtime and the ONNX checker."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from infra.errors import BadInput
from tasks.graphs.sites import find_sites
from tasks.numerics.quantized_weight import WeightScheme, quantize
from tasks.numerics.quantizer import Quantizer, fake_quantize
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tests import graphs
from tests.plans import from_scales
from tests.unit.tasks.quantization.observations import observe

Floats = NDArray[np.float32]
RNG = np.random.default_rng(3)
W = (RNG.standard_normal((8, 5)) * RNG.lognormal(0, 1, 5)).astype(
    np.float32
)  # outputs of unlike size
KERNEL = (RNG.standard_normal((5, 3, 2, 2)) * RNG.lognormal(0, 1, (5, 1, 1, 1))).astype(np.float32)
ROWS = RNG.standard_normal((7, 8)).astype(np.float32)
IMAGES = RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)


# --- One quantizer --------------------------------------------------------------------------------
# --------------------


def one_quantizer(scale: np.float32) -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "dq"),
    ]
    return graphs.model(nodes, {"s": scale, "z": np.int8(0)}, {"x": ["n"]}, {"y": ["n"]})


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**40), 2.0**40, width=32)),
    st.floats(2.0**-20, 2.0**20, width=32),
)
@settings(max_examples=60, deadline=None)
def test_fake_quantization_is_what_onnx_runtime_computes_bit_for_bit(
    values: Floats, scale: float
) -> None:
    found = fake_quantize(values, Quantizer(scale * 127))
    for form in ("s8", "u8"):
        theirs = graphs.run(lower(one_quantizer(np.float32(scale)), form), values, optimize=False)
        assert np.array_equal(found, theirs)


@given(st.integers(-300, 300), st.sampled_from([0.25, 1.0, 8.0]))
@settings(deadline=None)
def test_halves_are_rounded_to_even_and_large_values_saturate(half: int, scale: float) -> None:
    value = np.array([half / 2 * scale], np.float32)
    found = fake_quantize(value, Quantizer(scale * 127))[0] / scale
    assert found == max(-128, min(127, round(half / 2)))  # Python rounds halves to even too


def test_a_weight_channel_of_zeros_has_a_scale_and_stays_zero() -> None:
    weight = np.array([[0, 0], [1, -2], [1e-44, 0]], np.float32)
    stored = quantize(weight, WeightScheme())
    assert (stored.scales > 0).all()
    assert np.isfinite(stored.dequantized()).all()


# --- Whole graphs against numpy
# ---------------------------------------------------------------------------------------


def rounded(values: Floats, scale: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.clip(np.round(values.astype(np.float64) / scale), -128, 127) * scale


def linear_reference(
    x: Floats, weight: Floats, amax: float, smoothing_scales: Floats
) -> NDArray[np.float64]:
    """Return x @ weight as the quantizer lets it through.

    x [n, inputs], weight [inputs, outputs]: per-tensor activations, one weight scale an output
    column.
    """
    scaled = weight * smoothing_scales[:, None]
    columns = [rounded(column, np.float64(np.abs(column).max() / 127)) for column in scaled.T]
    return rounded(x / smoothing_scales, np.float64(amax / 127)) @ np.stack(columns, axis=1)


def convolution_reference(x: Floats, kernel: Floats, amax: float) -> NDArray[np.float64]:
    filters = np.stack([rounded(item, np.float64(np.abs(item).max() / 127)) for item in kernel])
    windows = sliding_window_view(rounded(x, np.float64(amax / 127)), kernel.shape[2:], axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, filters)


def written(
    model: onnx.ModelProto, amax: float, smoothing_scales: Floats | None = None
) -> onnx.ModelProto:
    sites = find_sites(model)
    return qdq.write(
        from_scales(model, sites, {site.name: Quantizer(amax, smoothing_scales) for site in sites})
    )


@pytest.mark.parametrize("form", ["s8", "u8"])
@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm-transposed"])
def test_a_linear_layer_computes_the_reference(kind: str, smoothed: bool, form: str) -> None:
    smoothing_scales = (
        np.linspace(0.5, 4, 8, dtype=np.float32) if smoothed else np.ones(8, np.float32)
    )
    if kind == "MatMul":
        model, bias = graphs.product(W), np.linspace(-1, 1, 5)
    else:
        turned = kind.endswith("transposed")
        model, bias = graphs.gemm(W.T.copy() if turned else W, transposed=turned), np.ones(5)
    graph = written(model, 2.0, smoothing_scales if smoothed else None)
    found = graphs.run(lower(graph, form), ROWS)
    expected = linear_reference(ROWS, W, 2.0, smoothing_scales) + bias
    step = 2 / 127 * np.abs(W * smoothing_scales[:, None]).max() / 127  # of an INT32 bias
    stored = form == "u8" and kind != "MatMul"
    assert np.allclose(found, expected, rtol=1e-5, atol=step / 2 + 1e-5 if stored else 1e-5)


@pytest.mark.parametrize("form", ["s8", "u8"])
def test_a_convolution_computes_the_reference(form: str) -> None:
    found = graphs.run(lower(written(graphs.convolution(KERNEL), 2.0), form), IMAGES)
    assert np.allclose(found, convolution_reference(IMAGES, KERNEL, 2.0), rtol=1e-5, atol=1e-5)


def test_scales_along_the_wrong_axis_would_be_noticed() -> None:
    square = (RNG.standard_normal((8, 8)) * RNG.lognormal(0, 2, (1, 8))).astype(np.float32)
    smoothing_scales = np.ones(8, np.float32)
    right = linear_reference(ROWS, square, 2.0, smoothing_scales)
    rows = np.stack([rounded(row, np.float64(np.abs(row).max() / 127)) for row in square])
    wrong = rounded(ROWS, np.float64(2 / 127)) @ rows
    found = graphs.run(written(graphs.gemm(square, transposed=False), 2.0), ROWS) - 1
    assert np.abs(found - right).max() < 1e-3 * np.abs(found - wrong).max()


@pytest.mark.parametrize("optimize", [False, True])
def test_both_lowerings_give_the_same_outputs(optimize: bool) -> None:
    model = graphs.encoder(16)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Tanh"
    sites = find_sites(model)
    graph = qdq.write(
        from_scales(model, sites, {site.name: Quantizer(3.0 + i) for i, site in enumerate(sites)})
    )
    x = np.random.default_rng(0).standard_normal((3, 6, 16)).astype(np.float32)
    left, right = (graphs.run(lower(graph, form), x, optimize=optimize) for form in ("s8", "u8"))
    if (
        optimize
    ):  # the integer kernel adds in another order, and a last bit can tip one rounding further on
        assert np.linalg.norm(left - right) < 2e-3 * np.linalg.norm(left)
    else:
        assert np.array_equal(left, right)


def test_what_is_nowhere_negative_has_all_of_the_steps_of_u8_to_itself() -> None:
    model = graphs.encoder(16)
    sites = find_sites(model)
    graph = qdq.write(from_scales(model, sites, {site.name: Quantizer(20.0) for site in sites}))
    shifted = lower(graph, "u8")
    levels = {item.name: numpy_helper.to_array(item) for item in shifted.graph.initializer}
    made_by_relu = {
        name for node in shifted.graph.node if node.op_type == "Relu" for name in node.output
    }
    reading = [node for node in shifted.graph.node if node.op_type == "QuantizeLinear"]
    ends = {
        node.input[0]: float(levels[node.input[1]]) * (255 - int(levels[node.input[2]]))
        for node in reading
    }
    zeros = {node.input[0] for node in reading if int(levels[node.input[2]]) == 0}
    assert zeros == made_by_relu & set(ends) != set()
    assert ends == pytest.approx(dict.fromkeys(ends, 20.0), rel=1e-6)
    x = np.random.default_rng(0).standard_normal((3, 6, 16)).astype(np.float32)
    exact = graphs.run(model, x)
    coarse, fine = (
        np.linalg.norm(graphs.run(lower(graph, form), x) - exact) for form in ("s8", "u8")
    )
    assert fine < coarse


def test_smoothing_leaves_the_product_unchanged_but_for_rounding() -> None:
    smoothing_scales = np.array([0.01, 0.1, 0.5, 1, 2, 10, 50, 100], np.float32)
    graph = written(graphs.product(W), 1e4, smoothing_scales)
    for (
        node
    ) in graph.graph.node:  # take the quantizers out: Mul by 1 / s before, W * s in the weight
        if node.op_type == "MatMul":
            node.input[0] = "x.smoothed"
            node.input[1] = "exact"
    graph.graph.initializer.append(numpy_helper.from_array(W * smoothing_scales[:, None], "exact"))
    assert np.allclose(
        graphs.run(graph, ROWS), graphs.run(graphs.product(W), ROWS), rtol=1e-4, atol=1e-5
    )


# --- What is written, and what is left alone
# --------------------------------------------------------------------------


def attention(
    scales: dict[str, Quantizer] | None = None,
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = graphs.encoder(16)
    sites = find_sites(model)
    return model, qdq.write(
        from_scales(model, sites, scales or {site.name: Quantizer(4.0) for site in sites})
    )


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    found = [node.op_type for node in model.graph.node]
    return {kind: found.count(kind) for kind in found}


def test_a_written_graph_passes_the_onnx_checker_with_full_type_inference() -> None:
    model = graphs.encoder(16)
    sites = find_sites(model)
    smoothing_scales = {
        site.name: np.ones(64 if "down" in site.name else 16, np.float32) for site in sites
    }
    graph = qdq.write(
        from_scales(
            model, sites, {name: Quantizer(4.0, item) for name, item in smoothing_scales.items()}
        )
    )
    for form in ("s8", "u8"):
        onnx.checker.check_model(lower(graph, form), full_check=True)


def test_one_quantizer_serves_all_layers_that_share_an_input() -> None:
    _, graph = attention()
    assert kinds(graph)["QuantizeLinear"] == 8  # four sites a layer
    assert kinds(graph)["DequantizeLinear"] == 8 + 12  # and one of each weight


def test_no_quantizer_lies_on_an_output_or_between_layers() -> None:
    model, graph = attention()
    sites = {site.tensor for site in find_sites(model)}
    assert {node.input[0] for node in graph.graph.node if node.op_type == "QuantizeLinear"} == sites
    assert [output.name for output in graph.graph.output] == ["y"]
    (producer,) = [node for node in graph.graph.node if "y" in node.output]
    assert producer.op_type == "Add"


def test_sites_without_a_scale_are_left_as_they_were() -> None:
    model, graph = attention({"layer.0.up": Quantizer(4.0)})
    before = {node.name: node for node in model.graph.node}
    changed = {n.name for n in graph.graph.node if n.name in before and n != before[n.name]}
    assert changed == {"layer.0.up.MatMul"}
    assert [item for item in graph.graph.initializer if item.name == "layer.0.down.w"] == [
        item for item in model.graph.initializer if item.name == "layer.0.down.w"
    ]


def test_no_scales_leave_the_graph_unchanged() -> None:
    model = graphs.encoder(16)
    assert qdq.write(from_scales(model, find_sites(model), {})) == model


def test_the_model_that_was_read_is_not_changed() -> None:
    model = graphs.encoder(16)
    before = model.SerializeToString(deterministic=True)
    sites = find_sites(model)
    qdq.write(from_scales(model, sites, {site.name: Quantizer(4.0) for site in sites}))
    assert model.SerializeToString(deterministic=True) == before


def test_replaced_weights_are_dropped_and_int8_takes_a_quarter() -> None:
    big = graphs.product(RNG.standard_normal((256, 256)).astype(np.float32))
    assert len(written(big, 1.0).SerializeToString()) < 0.27 * len(big.SerializeToString())


def test_written_twice_it_is_the_same_to_the_byte() -> None:
    first, second = (attention()[1].SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def shared_weight(scales: dict[str, Quantizer]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    square = RNG.standard_normal((8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "second"),
    ]
    model = graphs.model(nodes, {"w": square}, {"x": ["n", 8]}, {"y": ["n", 8]})
    return model, qdq.write(from_scales(model, find_sites(model), scales))


def test_a_weight_of_two_layers_is_quantized_for_each_with_its_own_smoothing() -> None:
    smoothing_scales = np.linspace(0.5, 2, 8, dtype=np.float32)
    model, graph = shared_weight(
        {"first": Quantizer(6.0, smoothing_scales), "second": Quantizer(20.0)}
    )
    onnx.checker.check_model(graph, full_check=True)
    assert "w" not in {item.name for item in graph.graph.initializer}
    exact = graphs.run(model, ROWS)
    assert np.linalg.norm(graphs.run(graph, ROWS) - exact) < 0.05 * np.linalg.norm(exact)


def test_a_weight_that_one_of_two_layers_still_reads_stays() -> None:
    _, graph = shared_weight({"second": Quantizer(20.0)})
    assert "w" in {item.name for item in graph.graph.initializer}
    graphs.run(graph, ROWS)


@pytest.mark.parametrize("amax", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_positive_number_is_bad_input(amax: float) -> None:
    model = graphs.product(W)
    with pytest.raises(BadInput, match="the scale of fc"):
        qdq.write(from_scales(model, find_sites(model), {"fc": Quantizer(amax)}))


# --- Recalibration patches the scales
# ---------------------------------------------------------------------------------


def test_rescaling_changes_activation_scales_and_nothing_else() -> None:
    model, graph = attention()
    sites = find_sites(model)
    again = qdq.rescale(graph, sites, {site.name: Quantizer(8.0) for site in sites})
    assert list(again.graph.node) == list(graph.graph.node)
    pairs = zip(graph.graph.initializer, again.graph.initializer, strict=True)
    changed = {new.name: float(numpy_helper.to_array(new)) for old, new in pairs if old != new}
    assert changed == {f"{site.tensor}.scale": pytest.approx(8 / 127) for site in sites}


def test_rescaling_is_writing_with_the_new_scales() -> None:
    model, graph = attention()
    sites = find_sites(model)
    scales = {site.name: Quantizer(2.0 + i) for i, site in enumerate(sites)}
    assert qdq.rescale(graph, sites, scales) == qdq.write(from_scales(model, sites, scales))


@pytest.mark.parametrize("wanted", [{}, {"layer.0.up": Quantizer(1.0)}])
def test_rescaling_other_sites_than_the_graph_has_is_bad_input(
    wanted: dict[str, Quantizer],
) -> None:
    model, graph = attention()
    with pytest.raises(BadInput, match="differ in"):
        qdq.rescale(graph, find_sites(model), wanted)


def test_rescaling_a_full_precision_graph_is_bad_input() -> None:
    model = graphs.encoder(16)
    with pytest.raises(BadInput, match="differ in"):
        qdq.rescale(model, find_sites(model), {"layer.0.up": Quantizer(1.0)})


# --- Lowering -------------------------------------------------------------------------------------
# --------------------


def test_an_unknown_form_is_bad_input() -> None:
    with pytest.raises(BadInput, match="allowed are 's8', 'u8' and 'plain'"):
        lower(graphs.product(W), "fp4")


def test_lowering_shifts_activations_only_and_leaves_the_original_alone() -> None:
    _, graph = attention()
    before = graph.SerializeToString(deterministic=True)
    shifted = lower(graph, "u8")
    assert graph.SerializeToString(deterministic=True) == before
    points = [
        numpy_helper.to_array(i) for i in shifted.graph.initializer if i.name.endswith("zero_point")
    ]
    assert sorted((p.dtype.name, p.ndim) for p in points) == [("int8", 1)] * 12 + [("uint8", 0)] * 8
    assert all((p == 0).all() for p in points if p.dtype == np.int8)
    starts = sorted(int(p) for p in points if p.dtype == np.uint8)
    assert starts == [0] * 2 + [128] * 6  # behind the Relu of each layer there is nothing below 0


@pytest.mark.parametrize(
    ("step", "bounds"),
    [("Relu", []), ("Clip", ["low"]), ("Clip", ["low", "high"]), ("Clip", ["", "high"])],
)
def test_what_cuts_values_off_before_an_fp8_quantizer_is_not_dropped_by_the_runtime(
    step: str, bounds: list[str]
) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "up"),
        helper.make_node(step, ["p", *bounds], ["h"], "cut"),
        helper.make_node("MatMul", ["h", "v"], ["y"], "down"),
    ]
    weights = {"w": W, "v": W.T.copy(), "low": np.float32(0), "high": np.float32(3)}
    model = graphs.model(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 8]})
    sites, observed = observe(model, ROWS)
    graph = lower(qdq.write(derive(model, sites, observed, find_recipe("fp8"), None).plan), "u8")
    fused, plain = (graphs.run(graph, ROWS, optimize=optimize) for optimize in (True, False))
    assert np.allclose(fused, plain, rtol=1e-3, atol=1e-3)
    exact = graphs.run(model, ROWS)
    assert np.linalg.norm(fused - exact) < 0.1 * np.linalg.norm(exact)
