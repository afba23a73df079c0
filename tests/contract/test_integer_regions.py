"""The table of what ONNX Runtime computes in integers, held against the runtime itself."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from infra.engines import open_target
from infra.engines.port import Shapes
from tasks.graphs.integer_regions import OPERATORS, Kind, find_region, result_sites
from tasks.graphs.sites import Site, expose, find_sites
from tasks.observation.observer import Observer, SiteObservation
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.qdq import write
from tasks.quantization.pipeline.candidate import CalibrationEvidence, quantize
from tasks.quantization.pipeline.results import result_quantizers
from tasks.quantization.pipeline.tuning import tune
from tasks.quantization.recipe.catalog import find_recipe
from tests import graphs

SHAPE = (2, 8, 8, 8)
CONSTANTS = {
    "half": np.full((), 0.5, np.float32),
    "vector": np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8, 1, 1),
    "six": np.full((), 6, np.float32),
    "zero": np.zeros((), np.float32),
    "same": np.asarray([0, 8, 8, 8], np.int64),
    "twice": np.asarray([1, 1, 2, 2], np.float32),
    "starts": np.asarray([1], np.int64),
    "ends": np.asarray([7], np.int64),
    "axis": np.asarray([2], np.int64),
}
Options = Mapping[str, object]
MIDDLES: Mapping[str, Sequence[tuple[str, Sequence[str], Options]]] = {
    "Conv": [],
    "Relu": [("Relu", ["a"], {})],
    "Clip": [("Clip", ["a", "zero", "six"], {})],
    "Add": [("Add", ["a", "b"], {})],
    "Mul": [("Mul", ["a", "b"], {})],
    "Add of a constant": [("Add", ["a", "vector"], {})],
    "Mul by a constant": [("Mul", ["vector", "a"], {})],
    "Mul by a scalar": [("Mul", ["a", "half"], {})],
    "Div by a scalar": [("Div", ["a", "six"], {})],
    "Concat": [("Concat", ["a", "b"], {"axis": 2})],
    "AveragePool": [("AveragePool", ["a"], {"kernel_shape": [2, 2]})],
    "GlobalAveragePool": [("GlobalAveragePool", ["a"], {})],
    "Sigmoid": [("Sigmoid", ["a"], {})],
    "LeakyRelu": [("LeakyRelu", ["a"], {"alpha": 0.1})],
    "HardSigmoid": [("HardSigmoid", ["a"], {"alpha": 1 / 6, "beta": 0.5})],
    "HardSwish": [("HardSwish", ["a"], {})],
    "MaxPool": [("MaxPool", ["a"], {"kernel_shape": [2, 2]})],
    "Resize": [("Resize", ["a", "", "twice"], {"mode": "nearest"})],
    "Transpose": [("Transpose", ["a"], {"perm": [0, 1, 3, 2]})],
    "Reshape": [("Reshape", ["a", "same"], {})],
    "Squeeze": [("Unsqueeze", ["a", "axis"], {}), ("Squeeze", ["c0", "axis"], {})],
    "Unsqueeze": [("Unsqueeze", ["a", "axis"], {}), ("Squeeze", ["c0", "axis"], {})],
    "Flatten": [("Flatten", ["a"], {}), ("Reshape", ["c0", "same"], {})],
    "Slice": [("Slice", ["a", "starts", "ends", "axis"], {})],
    "DepthToSpace": [("DepthToSpace", ["a"], {"blocksize": 2})],
    "HardSwish as exporters write it": [
        ("Add", ["a", "half"], {}),
        ("Clip", ["c0", "zero", "six"], {}),
        ("Mul", ["a", "c1"], {}),
        ("Div", ["c2", "six"], {}),
    ],
}
MOVES = {name for name, kind in OPERATORS.items() if kind is Kind.MOVE}
RESTORES = {"QuantizeLinear", "DequantizeLinear"}
"""What may stand in the runtime's graph without arithmetic in floating point."""


def between_convolutions(middle: Sequence[tuple[str, Sequence[str], Options]]) -> onnx.ModelProto:
    """Return two convolutions, the nodes, and a convolution that reads them; a float node ends it.

    What they are given is `a` and `b`, and what they make is `c0`, `c1` and so on.
    """
    rng = np.random.default_rng(0)
    asked = {name for _, inputs, _ in middle for name in inputs} | {"a"}
    nodes = [
        helper.make_node("Conv", ["x", f"w.{name}"], [name], f"conv.{name}", pads=[1, 1, 1, 1])
        for name in "ab"
        if name in asked
    ]
    for place, (op, inputs, options) in enumerate(middle):
        nodes.append(helper.make_node(op, inputs, [f"c{place}"], f"middle{place}", **options))
    last = nodes[-1].output[0] if middle else "a"
    channels = 2 if middle and middle[0][0] == "DepthToSpace" else 8
    nodes.append(helper.make_node("Conv", [last, "w.last"], ["y"], "conv.last"))
    nodes.append(helper.make_node("Exp", ["y"], ["z"], "float"))
    weights = {
        "w.a": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "w.b": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "w.last": rng.normal(0, 0.2, (4, channels, 1, 1)),
    }
    read = {name for node in nodes for name in node.input}
    constants = {**{name: np.float32(value) for name, value in weights.items()}, **CONSTANTS}
    initializers = [
        numpy_helper.from_array(value, name) for name, value in constants.items() if name in read
    ]
    graph = helper.make_graph(
        nodes,
        "middle",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def quantized(model: onnx.ModelProto, recipe: str = "int8-max") -> onnx.ModelProto:
    """Return the stored graph of a recipe, calibrated on noise."""
    (sites, observed), chosen = observed_on_noise(model), find_recipe(recipe)
    tuned = tune(model, sites, observed, chosen, None)
    return quantize(CalibrationEvidence(model, sites, observed), chosen, None, tuned).graph


def observed_on_noise(
    model: onnx.ModelProto,
) -> tuple[tuple[Site, ...], Mapping[str, SiteObservation]]:
    """Return the sites, and what they and all results saw."""
    sites = find_sites(model)
    watched = (*sites, *result_sites(model, sites))
    engine = open_target("onnxruntime-cpu").load(expose(model, watched).SerializeToString())
    observer = Observer(watched)
    observer.update({"x": noise(), **engine.run({"x": noise()})}, np.arange(SHAPE[0]))
    return sites, observer.result()


def noise() -> np.ndarray:
    """Return one batch."""
    return np.random.default_rng(1).normal(0, 1, SHAPE).astype(np.float32)


@pytest.mark.parametrize("name", MIDDLES)
def test_the_runtime_computes_every_row_of_the_table_in_integers(name: str) -> None:
    model = between_convolutions(MIDDLES[name])
    target = open_target("onnxruntime-cpu")
    graph = lower(quantized(model), "u8").SerializeToString()
    shapes = Shapes(SHAPE, SHAPE, SHAPE)
    layers = json.loads(target.build(graph, {"x": shapes}).layers)["layers"]
    floats = [
        layer["type"]
        for layer in layers
        if layer["precision"] == "FLOAT"
        and layer["type"] not in MOVES | RESTORES
        and layer["name"] != "float"
    ]
    assert not floats
    assert sum(layer["type"] in RESTORES for layer in layers) == 2  # at both ends
    expected = target.load(model.SerializeToString()).run({"x": noise()})["z"]
    found = target.load(graph).run({"x": noise()})["z"]
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.99


def test_every_operator_of_the_table_is_tried() -> None:
    tried = {op for middle in MIDDLES.values() for op, *_ in middle} | {"Conv"}
    assert set(OPERATORS) <= tried


def test_the_other_form_has_nothing_behind_its_layers() -> None:
    model = between_convolutions(MIDDLES["Add"])
    lowered = lower(quantized(model), "s8")
    quantizers = [node for node in lowered.graph.node if node.op_type == "QuantizeLinear"]
    assert {node.input[0] for node in quantizers} == {"x", "c0"}


def test_a_weight_only_recipe_asks_for_no_results() -> None:
    model = between_convolutions(MIDDLES["Add"])
    assert not [
        node for node in quantized(model, "int8-weights").graph.node if "result" in node.name
    ]


def test_what_no_convolution_reads_stays_in_floats() -> None:
    model = between_convolutions(MIDDLES["Add"])
    model.graph.node[-2].CopyFrom(helper.make_node("Exp", ["c0"], ["y"], "conv.last"))
    region = find_region(model, {"conv.a", "conv.b"})
    assert region.nodes == {"conv.a", "conv.b"}
    assert region.results == ("x", "a", "b")
    assert OPERATORS["Add"] is Kind.ELEMENTWISE


def test_the_bias_of_a_nearly_dead_channel_does_not_wrap() -> None:
    model = between_convolutions(MIDDLES["Relu"])
    dead = next(item for item in model.graph.initializer if item.name == "w.a")
    weight = numpy_helper.to_array(dead).copy()
    weight[:4] *= 1e-10
    dead.CopyFrom(numpy_helper.from_array(weight, "w.a"))
    bias = numpy_helper.from_array(np.full(8, 2.5, np.float32), "b.a")
    model.graph.initializer.append(bias)
    model.graph.node[0].input.append("b.a")
    target = open_target("onnxruntime-cpu")
    expected = target.load(model.SerializeToString()).run({"x": noise()})["z"]
    lossy = target.load(lower(quantized(model), "u8").SerializeToString()).run({"x": noise()})["z"]
    assert np.linalg.norm(lossy - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("divided", [True, False])
def test_a_convolution_that_is_kept_in_floats_has_a_plain_weight_there_and_its_hard_swish(
    divided: bool,
) -> None:
    """Where the division by 6 was folded into the weights behind it, HardSigmoid takes it back."""
    middle = MIDDLES["HardSwish as exporters write it"]
    model = between_convolutions(middle if divided else middle[:3])
    floats = ("conv.a",) if divided else ("conv.a", "conv.last")
    for item in model.graph.initializer:
        if item.name == "half":
            item.CopyFrom(numpy_helper.from_array(np.full((), 3, np.float32), "half"))
    sites, observed = observed_on_noise(model)
    chosen = find_recipe("int8-max")
    tuned = tune(model, sites, observed, chosen, None)
    derived = quantize(CalibrationEvidence(model, sites, observed), chosen, None, tuned).derived
    wanted = result_quantizers(model, derived.plan, observed, chosen, floats)
    unused = tuple(set(derived.results) - set(wanted))
    stored = write(replace(derived.plan, floats=floats, unused=unused))
    graph = lower(stored, "u8")
    makers = {name: node for node in graph.graph.node for name in node.output}
    (first,) = [node for node in graph.graph.node if node.name == "conv.a"]
    assert first.input[0] == "x"
    assert first.input[1] not in makers
    assert {"HardSigmoid"} == {node.op_type for node in graph.graph.node} & {"HardSigmoid", "Clip"}
    target = open_target("onnxruntime-cpu")
    expected = target.load(model.SerializeToString()).run({"x": noise()})["z"]
    lossy = target.load(graph.SerializeToString()).run({"x": noise()})["z"]
    assert np.corrcoef(expected.ravel(), lossy.ravel())[0, 1] > 0.99
    assert "x.quantize" in {node.name for node in lower(stored, "s8").graph.node}
    assert not lower(stored, "s8").metadata_props


def test_a_classifier_is_computed_in_integers_from_its_first_quantizer_to_its_last_sum() -> None:
    """The head reads the levels that the pool moved: nothing is restored and rounded again."""
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "v", "b"], ["g"], "hidden"),
        helper.make_node("Relu", ["g"], ["h"], "cut"),
        helper.make_node("Gemm", ["h", "u", "d"], ["z"], "head"),
    ]
    weights = {
        "w": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "v": rng.normal(0, 0.1, (128, 16)),
        "b": rng.normal(0, 1, 16),
        "u": rng.normal(0, 0.2, (16, 4)),
        "d": rng.normal(0, 1, 4),
    }
    floats = {name: np.float32(value) for name, value in weights.items()}
    model = graphs.model(nodes, floats, {"x": ["n", *SHAPE[1:]]}, {"z": ["n", 4]})
    graph = lower(quantized(model), "u8").SerializeToString()
    target, shapes = open_target("onnxruntime-cpu"), Shapes(SHAPE, SHAPE, SHAPE)
    layers = json.loads(target.build(graph, {"x": shapes}).layers)["layers"]
    kernels = [layer["type"] for layer in layers if layer["type"] not in MOVES | {"NhwcMaxPool"}]
    assert kernels == ["QuantizeLinear", "QLinearConv", "QGemm", "QGemm"]
    expected, lossy = (
        target.load(data).run({"x": noise()})["z"] for data in (model.SerializeToString(), graph)
    )
    assert np.linalg.norm(lossy - expected) < 0.03 * np.linalg.norm(expected)


@pytest.mark.parametrize("way", ["marked", "excluded"])
def test_a_convolution_in_floats_between_others_in_integers_stays_there(way: str) -> None:
    rng = np.random.default_rng(3)
    ends = {name: rng.normal(0, 0.2, (8, 8, 3, 3)) for name in ("first", "last")}
    # Channels of unlike ranges: one scale for all of them would lose most of the small ones.
    unlike = rng.normal(0, 0.3, (8, 1, 3, 3)) * np.logspace(-2, 1, 8).reshape(-1, 1, 1, 1)
    weights = {**ends, "middle": unlike, "end": rng.normal(0, 0.2, (8, 8, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], "node.first"),
        helper.make_node("Conv", ["a", "middle"], ["b"], "node.middle", group=8),
        helper.make_node("Conv", ["b", "last"], ["c"], "node.last"),
        helper.make_node("Conv", ["c", "end"], ["z"], "node.end"),
    ]
    shape = ["n", *SHAPE[1:]]
    model = graphs.model(
        nodes,
        {name: np.float32(value) for name, value in weights.items()},
        {"x": shape},
        {"z": ["n", 8, 2, 2]},
    )
    sites, observed = observed_on_noise(model)
    chosen = find_recipe("int8-max")
    tuned = tune(model, sites, observed, chosen, None)
    plan = quantize(CalibrationEvidence(model, sites, observed), chosen, None, tuned).derived.plan
    floats = ["node.middle"]
    if way == "excluded":
        kept = [item for item in plan.sites if item.site.layers[0].node not in floats]
        plan = replace(plan, sites=tuple(kept))
    wanted = result_quantizers(model, plan, observed, chosen, floats)
    graph = lower(write(replace(plan, floats=tuple(floats), results=wanted)), "u8")
    target, shapes = open_target("onnxruntime-cpu"), Shapes(SHAPE, SHAPE, SHAPE)
    layers = json.loads(target.build(graph.SerializeToString(), {"x": shapes}).layers)["layers"]
    kinds = [layer["type"] for layer in layers if "Conv" in layer["type"]]
    assert kinds[:3] == ["QLinearConv", "Conv", "QLinearConv"]
