"""Graphs of floats in blocks compute the same in ONNX's reference, in ONNX Runtime and here."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from infra.errors import BadInput
from infra.settings import Settings
from infra.weights.naming import is_beside
from tasks.numerics.block_floats import fake_quantize_blocks
from tasks.numerics.formats import NumberFormat
from tasks.quantization.activation.quantizers import block_quantizer
from tasks.quantization.compressed.exported import _require_expressible
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.plan import QuantizedSite
from tasks.quantization.pipeline.derive import Derived, derive
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.recipe import Recipe
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

Floats = NDArray[np.float32]
RNG = np.random.default_rng(0)
WIDTH = 64
NAMES = ["nvfp4", "nvfp4-weights", "mxfp8", "mxfp4-weights"]
X = (RNG.standard_normal((40, WIDTH)) * np.exp2(RNG.integers(-9, 3, (40, 1)))).astype(np.float32)
X[0], X[1, :16] = 0, np.resize([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0], 16)


def derived(name: str, model: onnx.ModelProto, x: Floats) -> Derived:
    sites, observed = observe(model, x)
    return derive(model, sites, observed, find_recipe(name), None)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_product_reads_is_what_its_parts_say_to_the_last_bit(name: str) -> None:
    model = graphs.product((RNG.standard_normal((WIDTH, 24)) / 8).astype(np.float32))
    found = derived(name, model, X)
    (item,) = found.plan.sites
    assert isinstance(item, QuantizedSite)
    graph = qdq.write(found.plan)
    onnx.checker.check_model(graph, full_check=True)
    restored = item.weights[0].dequantized()
    read = X if item.blocks is None else fake_quantize_blocks(X, item.blocks)
    for form in ("u8", "plain"):
        shown = showing(lower(graph, form)).SerializeToString()
        session = ort.InferenceSession(shown, providers=["CPUExecutionProvider"])
        values, weight = session.run(["y", "weight"], {"x": X})
        assert np.array_equal(values, read)
        assert np.array_equal(weight, restored.T)
    values, weight = ReferenceEvaluator(showing(graph)).run(["y", "weight"], {"x": X})
    assert np.array_equal(values, read)
    assert np.array_equal(weight, restored.T)


def showing(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose product is replaced by what it reads: activation and weight."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    product = next(node for node in copy.graph.node if node.op_type in ("MatMul", "Gemm"))
    read = dict(zip(("y", "weight"), product.input, strict=False))
    before = list(copy.graph.node)[: list(copy.graph.node).index(product)]
    shown = [helper.make_node("Identity", [source], [name]) for name, source in read.items()]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in read]
    del copy.graph.node[:], copy.graph.output[:]
    copy.graph.node.extend([*before, *shown])
    copy.graph.output.extend(outputs)
    return copy


def test_a_layer_without_whole_blocks_has_weights_in_int8_and_is_told() -> None:
    x = RNG.standard_normal((16, 40)).astype(np.float32)
    found = derived("nvfp4", graphs.product(RNG.standard_normal((40, 24)).astype(np.float32)), x)
    (item,) = found.plan.sites
    assert isinstance(item, QuantizedSite)
    assert item.weights[0].format is NumberFormat.INT8
    assert item.blocks is None
    assert "fc: no two or more whole blocks of 16 inputs" in "; ".join(found.diagnostics)


def test_a_tensor_that_calibration_saw_as_zeros_gets_no_scale() -> None:
    observed = observe(graphs.encoder(64), np.zeros((4, 6, 64), np.float32))[1]
    with pytest.raises(BadInput, match="calibration saw nothing but zeros"):
        derived("nvfp4", graphs.product(np.ones((WIDTH, 8), np.float32)), X * 0)
    recipe = find_recipe("mxfp8")
    assert block_quantizer(next(iter(observed.values())), recipe) is not None  # fixes nothing


@pytest.mark.parametrize(
    ("changes", "pair"),
    [
        ({"weights": find_recipe("mxfp8").weights}, "activations in blocks and weights of another"),
        (
            {
                "weights": find_recipe("mxfp8").weights,
                "activation": find_recipe("mxfp8").activation,
                "high_precision": find_recipe("fp16-whole").high_precision,
            },
            "MXFP8 activations and a whole graph in a shorter float",
        ),
        ({"smoothing": find_recipe("int8-smooth").smoothing}, "smoothing and activations without"),
    ],
)
def test_what_does_not_go_with_blocks_is_refused(changes: dict[str, object], pair: str) -> None:
    nvfp4 = find_recipe("nvfp4")
    fields = {name: getattr(nvfp4, name) for name in ("summary", "weights", "activation")}
    with pytest.raises(BadInput, match=pair):
        Recipe("mine", **{**fields, **changes})


def test_weights_in_blocks_are_not_written_as_a_compressed_checkpoint() -> None:
    model = graphs.product(RNG.standard_normal((WIDTH, 24)).astype(np.float32))
    found = derived("nvfp4-weights", model, X)
    graph = qdq.write(found.plan)
    parts = {item.name: item for item in graph.graph.initializer}
    site = found.plan.sites[0].site
    with pytest.raises(BadInput, match="of floats in blocks"):
        _require_expressible(parts, site, f"{site.layers[0].node}.weight")


def test_weights_beside_the_graph_are_the_same(workspace: Settings) -> None:
    weight = RNG.standard_normal((WIDTH, 256)).astype(np.float32)
    inside, beside = graphs.product(weight), graphs.product(weight)
    beside.graph.initializer[0].CopyFrom(workspace.weights().tensor(weight, "val_0"))
    sites, observed = observe(inside, X)
    for name in ("nvfp4", "mxfp8"):
        recipe = find_recipe(name)
        written = qdq.write(derive(beside, sites, observed, recipe, None).plan)
        held = qdq.write(derive(inside, sites, observed, recipe, None).plan)
        for form in ("s8", "u8"):
            lowered = lower(written, form)
            assert {item.name for item in lowered.graph.initializer if is_beside(item)}
            assert workspace.weights().inside(lowered) == lower(held, form)


def test_a_table_in_int8_runs_beside_fp16() -> None:
    """On a device ONNX Runtime takes FP16, and the scales of a table's rows have its type."""
    model = graphs.product(RNG.standard_normal((WIDTH, 24)).astype(np.float32))
    model.graph.node.insert(0, helper.make_node("Gather", ["table", "ids"], ["rows"], "gather"))
    model.graph.node.insert(1, helper.make_node("Add", ["x", "rows"], ["sum"], "add"))
    model.graph.node[2].input[0] = "sum"
    table = RNG.standard_normal((600, WIDTH)).astype(np.float32)
    for name, values in (("table", table), ("ids", np.asarray([7]))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    graph = qdq.write(derived("nvfp4-fp16", model, X).plan)
    exact = graphs.run(model, X)
    for form in ("u8", "plain"):
        lost = graphs.run(lower(graph, form), X) - exact
        assert np.linalg.norm(lost) < 0.25 * np.linalg.norm(exact)
