"""A quantized product runs as it is stored on ONNX Runtime, whatever stands around it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper

from infra.engines import open_target
from infra.engines.port import Shapes
from tasks.graphs.canonical.names import free_names
from tasks.graphs.sites import find_sites
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.qdq import write
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

RNG = np.random.default_rng(5)
WEIGHT = RNG.standard_normal((16, 8)).astype(np.float32)
BIAS = RNG.standard_normal(8).astype(np.float32)
X = RNG.standard_normal((64, 16)).astype(np.float32)


def written(way: str, relu: bool, tokens: bool) -> onnx.ModelProto:
    end = "h" if relu else "y"
    if way == "gemm":
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], [end], "fc")]
    elif way == "gemm, transposed":
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], [end], "fc", transB=1)]
    else:
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["p"], "fc"),
            helper.make_node("Add", ["p", "b"], [end], "add"),
        ]
    if relu:
        nodes.append(helper.make_node("Relu", ["h"], ["y"], "relu"))
    weight = WEIGHT.T.copy() if way == "gemm, transposed" else WEIGHT
    lead = ["n", 4] if tokens else ["n"]
    return graphs.model(nodes, {"w": weight, "b": BIAS}, {"x": [*lead, 16]}, {"y": [*lead, 8]})


RUNTIME_FLOATS = ("Conv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
FLAT, IMAGE = X, RNG.standard_normal((8, 4, 8, 8)).astype(np.float32)
V = RNG.standard_normal((8, 8)).astype(np.float32)


def hidden(cut: str, way: str) -> onnx.ModelProto:
    """Two products with a cut between, behind a Concat of one more input."""
    transposed = {"transB": 1} if way == "Gemm, transposed" else {}
    op, weight = way.partition(",")[0], np.vstack([WEIGHT, WEIGHT])
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["both"], "join", axis=1),
        helper.make_node(op, ["both", "w"], ["p"], "first", **transposed),
        helper.make_node(cut, ["p", "low", "high"] if cut == "Clip" else ["p"], ["h"], "cut"),
        helper.make_node(op, ["h", "v"], ["y"], "second", **transposed),
    ]
    weights = {
        "w": weight.T.copy() if transposed else weight,
        "v": V.T.copy() if transposed else V,
        "low": np.float32(-1),
        "high": np.float32(6),
    }
    weights = {name: np.asarray(value) for name, value in weights.items()}
    return graphs.model(nodes, weights, {"x": ["n", 16]}, {"y": ["n", 8]})


def lowered(model: onnx.ModelProto, requests: np.ndarray, recipe: str) -> onnx.ModelProto:
    sites, observed = observe(model, requests)
    return lower(write(derive(model, sites, observed, find_recipe(recipe), None).plan), "u8")


def kernels(graph: onnx.ModelProto, requests: np.ndarray) -> list[str]:
    """Return what ONNX Runtime makes of a graph."""
    shape = (1, *requests.shape[1:])
    profile = {"x": Shapes(shape, shape, shape)}
    built = open_target("onnxruntime-cpu").build(graph.SerializeToString(), profile)
    return [layer["type"] for layer in json.loads(built.layers)["layers"]]


@pytest.mark.parametrize("way", ["MatMul", "Gemm", "Gemm, transposed"])
@pytest.mark.parametrize("cut", ["Relu", "Clip", "Tanh"])
@pytest.mark.parametrize("recipe", ["int8-max", "int8-weights", "int4-block-32"])
def test_a_hidden_layer_before_a_cut_runs_as_it_is_stored(recipe: str, cut: str, way: str) -> None:
    model = hidden(cut, way)
    graph = lowered(model, FLAT, recipe)
    types = kernels(graph, FLAT)
    assert not set(types) & set(RUNTIME_FLOATS), types
    target = open_target("onnxruntime-cpu")
    exact = target.load(model.SerializeToString()).run({"x": FLAT})["y"]
    lossy = target.load(graph.SerializeToString()).run({"x": FLAT})["y"]
    most = 0.25 if recipe.startswith("int4") else 0.03
    assert np.linalg.norm(lossy - exact) < most * np.linalg.norm(exact)


@pytest.mark.parametrize("recipe", ["int8-weights", "int4-gptq"])
def test_a_convolution_stored_in_int8_is_restored_once_when_it_is_loaded(recipe: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], "second"),
    ]
    shapes = {"w": (64, 4, 3, 3), "b": (64,), "v": (64, 64, 1, 1)}
    weights = {name: RNG.standard_normal(size).astype(np.float32) for name, size in shapes.items()}
    model = graphs.model(nodes, weights, {"x": ["n", 4, 8, 8]}, {"y": ["n", 64, 8, 8]})
    graph = lowered(model, IMAGE, recipe)
    assert graph.ByteSize() < 0.4 * model.ByteSize()
    assert not set(kernels(graph, IMAGE)) & {"DequantizeLinear", "Cast", "Mul"}
    target = open_target("onnxruntime-cpu")
    exact = target.load(model.SerializeToString()).run({"x": IMAGE})["y"]
    lossy = target.load(graph.SerializeToString()).run({"x": IMAGE})["y"]
    assert np.linalg.norm(lossy - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("way", ["MatMul", "Gemm, transposed"])
def test_weights_in_fp8_are_restored_once_too(way: str) -> None:
    types = kernels(lowered(hidden("Relu", way), FLAT, "fp8"), FLAT)
    assert types.count("DequantizeLinear") == types.count("QuantizeLinear") == 2  # activations'


CASES = [
    *((way, relu, False) for way in ("gemm", "gemm, transposed", "product") for relu in (0, 1)),
    *(("product", relu, True) for relu in (0, 1)),
]


@pytest.mark.parametrize(("way", "relu", "tokens"), CASES)
@pytest.mark.parametrize("recipe", ["int8-max", "int8-smooth", "int8-dynamic"])
def test_a_product_with_a_bias_runs_in_integers(
    way: str, relu: bool, tokens: bool, recipe: str
) -> None:
    model = written(way, relu, tokens)
    requests = X.reshape(16, 4, 16) if tokens else X
    sites, observed = observe(model, requests)
    assert sites == find_sites(model)
    graph = lower(write(derive(model, sites, observed, find_recipe(recipe), None).plan), "u8")
    target = open_target("onnxruntime-cpu")
    data = graph.SerializeToString()
    shape = (1, *requests.shape[1:])
    built = target.build(data, {"x": Shapes(shape, shape, shape)})
    floats = [
        layer["type"]
        for layer in json.loads(built.layers)["layers"]
        if layer["type"] in ("Gemm", "FusedGemm", "MatMul", "FusedMatMul")
    ]
    assert floats == []
    exact = target.load(model.SerializeToString()).run({"x": requests})["y"]
    lossy = target.load(data).run({"x": requests})["y"]
    assert np.linalg.norm(lossy - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("way", ["MatMul", "Gemm"])
@pytest.mark.parametrize(("cut", "given_out"), [(True, "h"), (True, "p"), (False, "h")])
def test_a_product_whose_result_is_given_out_and_quantized_runs_in_integers(
    way: str, cut: bool, given_out: str
) -> None:
    first = "p" if cut else "h"
    bias = ["b"] if way == "Gemm" else []
    nodes = [
        helper.make_node(way, ["x", "w", *bias], [first], "first"),
        *([helper.make_node("Relu", ["p"], ["h"], "relu")] if cut else []),
        helper.make_node(way, ["h", "v", *bias], ["y"], "second"),
    ]
    weights = {"w": WEIGHT, "v": V, **({"b": BIAS} if bias else {})}
    model = graphs.model(nodes, weights, {"x": ["n", 16]}, {"y": ["n", 8], given_out: ["n", 8]})
    sites, observed = observe(model, X)
    graph = lower(write(derive(model, sites, observed, find_recipe("int8-max"), None).plan), "u8")
    target, shape = open_target("onnxruntime-cpu"), (1, 16)
    data = graph.SerializeToString()
    layers = json.loads(target.build(data, {"x": Shapes(shape, shape, shape)}).layers)["layers"]
    assert not {layer["type"] for layer in layers} & set(RUNTIME_FLOATS)
    exact, lossy = (
        target.load(each).run({"x": X})["y"] for each in (model.SerializeToString(), data)
    )
    assert np.linalg.norm(lossy - exact) < 0.03 * np.linalg.norm(exact)


@pytest.mark.parametrize("ending", ["offset.quantized", "offset.scale", "result.scale", "parted"])
def test_a_constant_that_is_called_as_a_stored_bias_would_be_is_another(ending: str) -> None:
    name = f"fc.{ending}"
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "fc"),
        helper.make_node("Mul", ["h", name], ["y"], "scaled"),
    ]
    weights = {"w": WEIGHT, "b": BIAS, name: 2 * np.ones(8, np.float32)}
    model = graphs.model(nodes, weights, {"x": ["n", 16]}, {"y": ["n", 8]})
    expected = graphs.run(model, X)
    free_names(model)
    assert name not in {item.name for item in model.graph.initializer}
    sites, observed = observe(model, X)
    graph = lower(write(derive(model, sites, observed, find_recipe("int8-max"), None).plan), "u8")
    assert np.linalg.norm(graphs.run(graph, X) - expected) < 0.03 * np.linalg.norm(expected)
