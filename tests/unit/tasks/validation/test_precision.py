"""What was asked for in INT8 or FP8 against what runs, on real engines where there are some."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from infra.engines import open_target
from infra.engines.port import Kernel, Shapes
from tasks.graphs.sites import find_sites
from tasks.numerics.formats import NumberFormat
from tasks.numerics.quantizer import Quantizer
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.records import Verdict
from tasks.validation.precision import (
    Execution,
    QuantizedProduct,
    asked_for,
    compare_precision,
    precision_gate,
)
from tests import graphs
from tests.plans import from_scales

WEIGHT = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
PROFILE = {"x": Shapes((1, 8), (4, 8), (16, 8))}
ASKED = (QuantizedProduct("fc", "fc", "node_MatMul_0", "INT8"),)


def quantized(plain: onnx.ModelProto, format: NumberFormat = NumberFormat.INT8) -> onnx.ModelProto:
    sites = find_sites(plain)
    return qdq.write(
        from_scales(plain, sites, {site.name: Quantizer(2.0, format=format) for site in sites})
    )


def kernels_of(graph: onnx.ModelProto) -> tuple[Kernel, ...]:
    """Return the kernels of the engine that ONNX Runtime makes of it."""
    target = open_target("onnxruntime-cpu")
    found = target.kernels(
        target.build(lower(graph, "u8").SerializeToString(), PROFILE).layers, None
    )
    assert found is not None
    return found


def kernel(precision: str, *nodes: str) -> Kernel:
    return Kernel("kernel", "gemm", precision, frozenset(nodes))


@pytest.mark.parametrize(
    ("format", "precision"), [(NumberFormat.INT8, "INT8"), (NumberFormat.FP8, "FP8")]
)
def test_what_was_asked_for_stands_in_the_graph(format: NumberFormat, precision: str) -> None:
    plain = graphs.product(WEIGHT)
    graph = quantized(plain)
    if format is NumberFormat.FP8:
        for item in graph.graph.initializer:
            if item.name.endswith(("zero_point", ".quantized")):
                item.data_type = onnx.TensorProto.FLOAT8E4M3FN
    assert [one.precision for one in asked_for(graph, find_sites(plain))] == [precision]


def test_nothing_is_asked_of_full_precision_nor_of_weights_alone() -> None:
    plain = graphs.product(WEIGHT)
    assert asked_for(plain, find_sites(plain)) == ()
    graph = quantized(plain)
    node = next(node for node in graph.graph.node if node.name == "node_MatMul_0")
    node.input[0] = "x"
    assert asked_for(graph, find_sites(plain)) == ()
    assert precision_gate((), None, "no device") == ()


def test_a_product_that_the_runtime_fuses_runs_as_asked() -> None:
    plain = graphs.product(WEIGHT, tokens=True)
    graph = quantized(plain)
    gate = precision_gate(asked_for(graph, find_sites(plain)), kernels_of(graph), "")[0]
    assert (gate.verdict, gate.binding) == (Verdict.PASSED, False)
    assert "1 of 1 products run as asked" in gate.reason


def test_a_product_that_the_runtime_left_in_floating_point_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # [batch, inputs] @ weight + bias becomes a Gemm before the integer fusion looks for its MatMul,
    # unless the lowering keeps them apart.
    monkeypatch.setattr("tasks.quantization.graph.lowering.bias_apart", lambda graph: graph)
    plain = graphs.product(WEIGHT)
    graph = quantized(plain)
    asked = asked_for(graph, find_sites(plain))
    finding = compare_precision(asked, kernels_of(graph))[0]
    assert (finding.actual, finding.kernel) == (
        Execution.OTHERWISE,
        "node_MatMul_0/MatMulAddFusion",
    )
    gate = precision_gate(asked, kernels_of(graph), "")[0]
    assert gate.verdict is Verdict.FAILED
    assert "fc (INT8 asked, node_MatMul_0/MatMulAddFusion)" in gate.reason


def test_a_convolution_is_known_by_its_weight() -> None:
    plain = graphs.convolution(
        np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    )
    graph = quantized(plain)
    target = open_target("onnxruntime-cpu")
    shape = Shapes((1, 3, 6, 6), (2, 3, 6, 6), (4, 3, 6, 6))
    name = plain.graph.input[0].name
    layers = target.build(lower(graph, "u8").SerializeToString(), {name: shape}).layers
    found = compare_precision(
        asked_for(graph, find_sites(plain)), target.kernels(layers, None) or ()
    )
    assert [one.actual for one in found] == [
        Execution.AS_ASKED if "QLinearConv" in str(layers) else Execution.OTHERWISE
    ]


@pytest.mark.parametrize(
    ("kernels", "found", "verdict"),
    [
        ([kernel("INT8", "node_MatMul_0")], Execution.AS_ASKED, Verdict.PASSED),
        (
            [kernel("FLOAT", "node_MatMul_0"), kernel("INT8", "node_MatMul_0")],
            Execution.AS_ASKED,
            Verdict.PASSED,
        ),
        ([kernel("FLOAT", "node_MatMul_0")], Execution.OTHERWISE, Verdict.FAILED),
        ([kernel("FP8", "node_MatMul_0")], Execution.OTHERWISE, Verdict.FAILED),
        ([kernel("", "node_MatMul_0")], Execution.ABSENT, Verdict.FAILED),
        ([kernel("INT8", "another")], Execution.ABSENT, Verdict.FAILED),
        ([], Execution.ABSENT, Verdict.FAILED),
        (
            [kernel("UNKNOWN", "node_MatMul_0"), kernel("FLOAT", "node_MatMul_0")],
            Execution.UNTOLD,
            Verdict.INCONCLUSIVE,
        ),
    ],
)
def test_a_product_counts_as_asked_only_where_a_kernel_says_so(
    kernels: list[Kernel], found: Execution, verdict: Verdict
) -> None:
    assert [one.actual for one in compare_precision(ASKED, kernels)] == [found]
    assert precision_gate(ASKED, kernels, "")[0].verdict is verdict


def test_what_stays_in_floats_on_purpose_counts_and_is_said_to_be_so() -> None:
    products = [
        QuantizedProduct("b", "body", "node_Conv_1", "INT8", macs=90),
        QuantizedProduct("d", "depthwise", "node_Conv_2", "INT8", macs=10),
    ]
    kernels = [kernel("INT8", "node_Conv_1")]
    (gate,) = precision_gate(products, kernels, "", 0.8, kept={"node_Conv_2"})
    assert (gate.verdict, gate.estimate and gate.estimate.value) == (Verdict.PASSED, 0.9)
    assert "depthwise left in floating point on purpose" in gate.reason
    assert "asked, no kernel" not in gate.reason
    (gate,) = precision_gate(products, kernels, "", 0.95, kept={"node_Conv_2"})
    assert gate.verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("beside", "kernels", "value", "verdict", "told"),
    [
        ({"gru": 400}, [], 0.2, Verdict.FAILED, "100.0% of their multiply-accumulates; 20.0% of"),
        ({"lstm": 400}, [kernel("INT8", "lstm")], 1.0, Verdict.PASSED, "; 100.0% of all"),
        ({"up": 10}, [kernel("FLOAT", "up")], 100 / 110, Verdict.PASSED, "no recipe takes up"),
        ({"loop": None}, [], 1.0, Verdict.PASSED, "what loop multiplies within is not counted"),
        ({}, [], 1.0, Verdict.PASSED, "multiply-accumulates"),
    ],
)
def test_what_no_recipe_takes_counts_as_not_in_int8(
    beside: dict[str, int | None],
    kernels: list[Kernel],
    value: float,
    verdict: Verdict,
    told: str,
) -> None:
    asked = [QuantizedProduct("fc", "fc", "fc", "INT8", macs=100)]
    runs = [kernel("INT8", "fc"), *kernels]
    (gate,) = precision_gate(asked, runs, "", 0.8, beside=beside)
    assert (gate.estimate and gate.estimate.value) == pytest.approx(value)
    assert (gate.verdict, gate.binding) == (verdict, verdict is Verdict.FAILED)
    assert told in gate.reason


def test_an_engine_that_nobody_could_inspect_is_inconclusive_and_says_why() -> None:
    gate = precision_gate(ASKED, None, "no CUDA device is visible")[0]
    assert (gate.verdict, gate.estimate) == (Verdict.INCONCLUSIVE, None)
    assert "no CUDA device is visible" in gate.reason
