"""An LSTM runs in ONNX Runtime's INT8 kernel, and stays in floats where there is none."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from infra.engines import open_target
from infra.engines.port import Profile, Shapes
from infra.errors import Unavailable
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.qdq import write
from tasks.quantization.graph.recurrent import find_recurrent, marked_recurrent
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

RNG = np.random.default_rng(11)
STATE, FEATURES, BATCH = 112, 64, 8
X = RNG.standard_normal((10, BATCH, FEATURES)).astype(np.float32)
PROFILE: Profile = {"x": Shapes((1, 1, FEATURES), (10, BATCH, FEATURES), (20, BATCH, FEATURES))}


def floats(*shape: int) -> NDArray[np.float32]:
    return (RNG.standard_normal(shape) / np.sqrt(STATE)).astype(np.float32)


def recurrent(op: str = "LSTM", directions: int = 1, state: int = STATE) -> onnx.ModelProto:
    """Return a product, a recurrent layer with a bias, and another product."""
    gates = {"LSTM": 4, "GRU": 3}[op]
    direction = "bidirectional" if directions == 2 else "reverse"
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"], "embed"),
        helper.make_node(
            op, ["h", "w", "r", "b"], ["all"], "recur", hidden_size=state, direction=direction
        ),
        helper.make_node("ReduceMean", ["all", "axis"], ["one"], "mean", keepdims=0),
        helper.make_node("MatMul", ["one", "u"], ["y"], "head"),
    ]
    weights = {
        "v": floats(FEATURES, FEATURES),
        "w": 2 * floats(directions, gates * state, FEATURES),
        "r": 2 * floats(directions, gates * state, state),
        "b": floats(directions, 2 * gates * state),
        "axis": np.array([1]),
        "u": floats(state, 7),
    }
    return graphs.model(nodes, weights, {"x": ["t", "n", FEATURES]}, {"y": ["t", "n", 7]})


def quantized(model: onnx.ModelProto, recipe: str) -> onnx.ModelProto:
    sites, observed = observe(model, X)
    return write(derive(model, sites, observed, find_recipe(recipe), None).plan)


def kernels(graph: onnx.ModelProto) -> dict[str, str]:
    built = open_target("onnxruntime-cpu").build(graph.SerializeToString(), PROFILE)
    return {item["type"]: item["precision"] for item in json.loads(built.layers)["layers"]}


def error(model: onnx.ModelProto, graph: onnx.ModelProto) -> float:
    target = open_target("onnxruntime-cpu")
    exact, lossy = (
        target.load(item.SerializeToString()).run({"x": X})["y"] for item in (model, graph)
    )
    return float(np.linalg.norm(lossy - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("recipe", ["int8-max", "int8-dynamic", "int8-smooth"])
def test_an_lstm_runs_in_the_runtimes_int8_kernel(recipe: str, directions: int) -> None:
    model = recurrent(directions=directions)
    graph = lower(quantized(model, recipe), "u8")
    types = kernels(graph)
    assert types["DynamicQuantizeLSTM"] == "INT8"
    assert "LSTM" not in types
    assert 0 < error(model, graph) < 0.05
    assert graph.ByteSize() < 0.35 * model.ByteSize()


def test_weights_alone_are_stored_and_multiplied_as_floats() -> None:
    model = recurrent()
    graph = lower(quantized(model, "int8-weights"), "u8")
    types = kernels(graph)
    assert types["LSTM"] == "FLOAT"
    assert not {"DequantizeLinear", "Cast", "DynamicQuantizeLSTM"} & set(types)
    assert error(model, graph) < 0.02
    assert graph.ByteSize() < 0.35 * model.ByteSize()


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        (recurrent("GRU"), "int8-max"),
        (recurrent(state=16), "int8-max"),  # takes longer in INT8
        (recurrent(), "int8-mixed-1"),
        (recurrent(), "fp8"),
    ],
    ids=["GRU", "small", "mixed", "FP8"],
)
def test_what_gains_nothing_or_is_sensitive_stays_in_floats(
    model: onnx.ModelProto, recipe: str
) -> None:
    types = kernels(lower(quantized(model, recipe), "u8"))
    assert {"GRU", "LSTM"} & set(types)
    assert "DynamicQuantizeLSTM" not in types


def test_tensorrt_rtx_gets_constants_and_builds() -> None:
    try:
        target = open_target("tensorrt-rtx")
    except Unavailable as exc:
        pytest.skip(str(exc))
    model = recurrent()
    written = quantized(model, "int8-max")
    assert marked_recurrent(written) == set(find_recurrent(model)) == {"recur"}
    graph = lower(written, "s8")
    assert {"w", "r"} & {item.name for item in graph.graph.initializer} == set()
    target.build(graph.SerializeToString(), PROFILE)
    assert error(model, graph) < 0.05


def test_a_shared_or_computed_weight_is_left() -> None:
    model = recurrent()
    other = onnx.ModelProto.FromString(model.SerializeToString())
    next(node for node in other.graph.node if node.name == "recur").input[2] = "w"
    assert find_recurrent(model) == ("recur",)
    assert find_recurrent(other) == ()


def test_weights_that_bear_the_names_of_stored_ones_are_the_models_own() -> None:
    model = recurrent()
    names = {"w": "l.input.weight.shaped", "r": "l.state.weight.shaped"}
    for item in model.graph.initializer:
        item.name = names.get(item.name, item.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    graph = lower(quantized(model, "fp8"), "s8")
    assert {*names.values()} <= {item.name for item in graph.graph.initializer}
