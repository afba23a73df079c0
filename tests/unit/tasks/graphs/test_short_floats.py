"""A graph in FP16: where its casts stand, and what stays in float32."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infra.errors import BadInput
from tasks.graphs.short_floats import float32_notes, in_type_of, shortened
from tasks.numerics.formats import NumberFormat
from tests import graphs

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 8)).astype(np.float32)


def half(model: onnx.ModelProto, **largest: float) -> onnx.ModelProto:
    made = shortened(model, NumberFormat.FP16, largest)
    onnx.checker.check_model(made, full_check=True)
    return made


def of(
    nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.generic]] | None = None
) -> onnx.ModelProto:
    return graphs.model(nodes, weights or {}, {"x": ["batch", 8]}, {"y": ["batch", 8]})


def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], f"node_{output}", **attributes)


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        item.name: item.type.tensor_type.elem_type
        for item in (*graph.input, *graph.value_info, *graph.output)
    }


def casts(model: onnx.ModelProto) -> int:
    return Counter(item.op_type for item in model.graph.node)["Cast"]


@pytest.mark.parametrize("graph", [graphs.encoder(), graphs.residual_network(8)], ids=["a", "b"])
def test_casts_stand_at_input_and_output_and_the_answers_stay(graph: onnx.ModelProto) -> None:
    made = half(graph)
    kept = len(float32_notes(made))
    assert casts(made) <= 2 + 2 * kept
    feed = np.asarray(RNG.standard_normal([6, *_rest(graph)]), np.float32)
    exact, short = graphs.run(graph, feed), graphs.run(made, feed)
    assert short.dtype == np.float32
    assert np.abs(exact - short).max() <= 0.01 * np.abs(exact).max()


def _rest(graph: onnx.ModelProto) -> list[int]:
    dims = graph.graph.input[0].type.tensor_type.shape.dim
    return [dim.dim_value or 3 for dim in dims[1:]]


def test_a_mask_that_fp16_cannot_hold_stays_in_float32_up_to_the_softmax() -> None:
    made = half(
        of(
            [
                node("Greater", ["x", "zero"], "above"),
                node("Where", ["above", "zero", "lowest"], "mask"),
                node("Mul", ["x", "two"], "scores"),
                node("Add", ["scores", "mask"], "masked"),
                node("Softmax", ["masked"], "p"),
                node("Mul", ["p", "x"], "y"),
            ],
            {
                "zero": np.zeros((), np.float32),
                "two": np.full((), 2, np.float32),
                "lowest": np.full((), -1e9, np.float32),
            },
        )
    )
    found = types(made)
    assert found["scores"] == TensorProto.FLOAT16
    assert {found[name] for name in ("mask", "masked", "p")} == {TensorProto.FLOAT}
    assert float32_notes(made) == (
        "1 node in float32, such as node_mask: a constant of it does not fit fp16",
        "2 nodes in float32, such as node_masked: it reads what fp16 may not hold",
    )


def test_a_mask_of_infinity_is_one_in_fp16() -> None:
    made = half(
        of(
            [node("Add", ["x", "mask"], "masked"), node("Softmax", ["masked"], "y")],
            {"mask": np.asarray([0] * 6 + [-np.inf] * 2, np.float32)},
        )
    )
    assert float32_notes(made) == ()
    assert np.isfinite(graphs.run(made, X)).all()


def test_a_variance_is_computed_in_float32() -> None:
    graph = of(
        [
            node("ReduceMean", ["x", "last"], "mean"),
            node("Sub", ["x", "mean"], "centred"),
            node("Mul", ["centred", "centred"], "squares"),
            node("ReduceMean", ["squares", "last"], "variance"),
            node("Add", ["variance", "epsilon"], "shifted"),
            node("Sqrt", ["shifted"], "root"),
            node("Div", ["centred", "root"], "y"),
        ],
        {"last": np.asarray([1]), "epsilon": np.full((), 1e-12, np.float32)},
    )
    made = half(graph)
    found = types(made)
    assert {found[name] for name in ("squares", "variance", "shifted", "root")} == {
        TensorProto.FLOAT
    }
    assert found["centred"] == TensorProto.FLOAT16
    large = X * 1e3  # whose squares are beyond FP16
    assert np.allclose(graphs.run(made, large), graphs.run(graph, large), atol=0.01)


def test_positions_keep_all_their_bits() -> None:
    graph = of(
        [
            node("Shape", ["x"], "shape"),
            node("Cast", ["shape"], "counts", to=TensorProto.FLOAT),
            node("ReduceMax", ["counts"], "position", keepdims=0),
            node("Cos", ["position"], "angle"),
            node("Mul", ["x", "angle"], "y"),
        ]
    )
    found = types(half(graph))
    assert {found[name] for name in ("counts", "position", "angle")} == {TensorProto.FLOAT}


def test_what_calibration_saw_beyond_half_the_range_stays_in_float32() -> None:
    weight = RNG.standard_normal((8, 8)).astype(np.float32)
    graph = of([node("MatMul", ["x", "w"], "h"), node("Relu", ["h"], "y")], {"w": weight})
    assert types(half(graph, h=30_000.0))["h"] == TensorProto.FLOAT16
    made = half(graph, h=40_000.0)
    assert types(made)["h"] == TensorProto.FLOAT
    assert "beyond 32752" in float32_notes(made)[0]


def test_an_input_that_an_operator_wants_in_float32_stays_so() -> None:
    scales = np.asarray([1, 1, 2, 2], np.float32)
    resized = helper.make_node("Resize", ["x", "", "scales"], ["y"], "node_y", mode="nearest")
    graph = graphs.model(
        [resized],
        {"scales": scales},
        {"x": ["batch", 1, 4, 4]},
        {"y": ["batch", 1, 8, 8]},
    )
    made = half(graph)
    assert float32_notes(made) == ()
    assert next(item for item in made.graph.node if item.op_type == "Resize").input[2] == "scales"


def quantized(scale: float, weight_scales: NDArray[np.float32]) -> onnx.ModelProto:
    weights: dict[str, NDArray[np.generic]] = {
        "x.scale": np.full((), scale, np.float32),
        "x.zero_point": np.zeros((), np.int8),
        "w": RNG.integers(-127, 127, (8, 8)).astype(np.int8),
        "w.scale": weight_scales,
    }
    return of(
        [
            node("QuantizeLinear", ["x", "x.scale", "x.zero_point"], "q"),
            node("DequantizeLinear", ["q", "x.scale", "x.zero_point"], "d"),
            node("DequantizeLinear", ["w", "w.scale"], "v", axis=1),
            node("MatMul", ["d", "v"], "h"),
            node("Relu", ["h"], "y"),
        ],
        weights,
    )


def stored(model: onnx.ModelProto) -> dict[str, int]:
    return {item.name: item.data_type for item in model.graph.initializer}


def test_scales_are_in_the_type_of_what_they_scale_under_their_own_names() -> None:
    made = half(quantized(0.02, np.full(8, 0.01, np.float32)))
    assert stored(made)["x.scale"] == stored(made)["w.scale"] == TensorProto.FLOAT16
    assert casts(made) == 2


@pytest.mark.parametrize(
    ("scale", "weights"), [(1e-6, np.full(8, 0.01)), (0.02, np.full(8, 1e-7))], ids=["x", "w"]
)
def test_a_product_whose_scale_fp16_cannot_hold_stays_in_float32_with_its_quantizers(
    scale: float, weights: NDArray[np.float64]
) -> None:
    made = half(quantized(scale, weights.astype(np.float32)))
    assert stored(made)["x.scale"] == stored(made)["w.scale"] == TensorProto.FLOAT
    assert types(made)["h"] == TensorProto.FLOAT
    assert "a scale is too small for fp16" in float32_notes(made)[0]


def test_a_nearly_dead_channel_does_not_keep_its_layer_in_float32() -> None:
    weights = np.full(8, 0.01, np.float32)
    weights[3] = 1e-9
    made = half(quantized(0.02, weights))
    scales = next(item for item in made.graph.initializer if item.name == "w.scale")
    assert scales.data_type == TensorProto.FLOAT16
    assert (numpy_helper.to_array(scales) > 0).all()


def test_a_new_scale_takes_the_type_of_the_one_before() -> None:
    before = numpy_helper.from_array(np.asarray(0.5, np.float16), "x.scale")
    after = numpy_helper.from_array(np.asarray(1e-9, np.float32), "x.scale")
    taken = in_type_of(after, before)
    assert taken.data_type == TensorProto.FLOAT16
    assert float(numpy_helper.to_array(taken)) == 2.0**-14
    assert in_type_of(after, after) == after


def test_what_a_branch_reads_from_outside_stays_in_float32() -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8])
        return helper.make_graph([node(op, ["h", "w"], name)], name, [], [result])

    graph = of(
        [
            node("Relu", ["x"], "h"),
            node(
                "If",
                ["yes"],
                "chosen",
                then_branch=branch("a", "Add"),
                else_branch=branch("b", "Sub"),
            ),
            node("Tanh", ["chosen"], "y"),
        ],
        {"yes": np.asarray(True), "w": np.ones(8, np.float32)},
    )
    made = half(graph)
    assert types(made)["h"] == types(made)["chosen"] == TensorProto.FLOAT
    assert np.allclose(graphs.run(made, X), graphs.run(graph, X), atol=1e-3)


def test_a_tensor_of_unknown_type_is_bad_input() -> None:
    strange = helper.make_node("Gelu", ["x"], ["h"], "node_h", domain="com.microsoft")
    graph = of([strange, node("Relu", ["h"], "y")])
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(BadInput, match=r"the type of h, which node_h \(Gelu\) makes"):
        shortened(graph, NumberFormat.FP16, {})
