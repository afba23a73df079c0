"""Quantizers on residual branches, held against the layers that TensorRT-RTX's builder prints."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from infra.engines import open_target
from infra.engines.port import Shapes
from tasks.graphs.integer_regions import result_sites
from tasks.graphs.residual_branches import residual_branches
from tasks.graphs.sites import expose, find_sites
from tasks.observation.observer import Observer
from tasks.quantization.graph.integers import without_results
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.candidate import CalibrationEvidence, quantize
from tasks.quantization.recipe.catalog import RECIPES
from tests import graphs

RNG = np.random.default_rng(0)
SIZE = 16
X = RNG.standard_normal((4, 8, SIZE, SIZE)).astype(np.float32)
PROFILE = {"x": Shapes(*((count, 8, SIZE, SIZE) for count in (1, 2, 4)))}


def network(shortcut: str) -> onnx.ModelProto:
    """Return Conv, ReLU, Conv and the shortcut, ReLU, Conv: as residual networks have it."""
    nodes, weights = [], {}

    def convolve(source: str, name: str) -> str:
        weights[f"{name}.w"] = (RNG.standard_normal((8, 8, 3, 3)) / 8).astype(np.float32)
        weights[f"{name}.b"] = RNG.standard_normal(8).astype(np.float32)
        inputs = [source, f"{name}.w", f"{name}.b"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.y"], name, pads=[1] * 4))
        return f"{name}.y"

    def apply(op: str, inputs: list[str], result: str) -> str:
        nodes.append(helper.make_node(op, inputs, [result], f"node_{result}"))
        return result

    stem = apply("Relu", [convolve("x", "stem")], "stem.relu")
    side = stem
    if shortcut == "a convolution":
        side = convolve(stem, "side")
    if shortcut == "what no layer reads":
        side = apply("Softplus", [stem], "side")
    if shortcut == "a pool":
        pool = helper.make_node(
            "MaxPool", [stem], ["side"], "pool", kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]
        )
        nodes.append(pool)
        side = "side"
    first = apply("Relu", [convolve(stem, "first")], "first.relu")
    joined = apply("Add", [convolve(first, "second"), side], "joined")
    last = apply("Relu", [joined], "last")
    apply("Sigmoid", [convolve(last, "head")], "y")
    shape = ["batch", 8, SIZE, SIZE]
    return graphs.model(nodes, weights, {"x": shape}, {"y": shape})


def quantized(model: onnx.ModelProto, recipe: str = "int8-max") -> onnx.ModelProto:
    sites = find_sites(model)
    observed = (*sites, *result_sites(model, sites))
    exposed = expose(model, observed)
    session = graphs.ort.InferenceSession(exposed.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    tensors = dict(zip(names, session.run(None, {"x": X}), strict=True)) | {"x": X}
    observer = Observer(observed)
    observer.update(tensors, np.arange(len(X)))
    return quantize(CalibrationEvidence(model, sites, observer.result()), RECIPES[recipe]).graph


def printed(graph: onnx.ModelProto) -> list[dict[str, Any]]:
    pytest.importorskip("tensorrt_rtx")
    built = open_target("tensorrt-rtx").build(graph.SerializeToString(), PROFILE)
    kernels: list[dict[str, Any]] = json.loads(built.layers)["kernels"]
    return kernels


def types(layer: dict[str, Any], part: str) -> list[str]:
    return [tensor["Datatype"] for tensor in layer[part]]


SHORTCUTS = ["what a layer reads", "a convolution", "what no layer reads", "a pool"]


def kernel_of(node: str, layers: list[dict[str, Any]]) -> dict[str, Any]:
    (layer,) = [layer for layer in layers if f"[ONNX Layer: {node}]" in layer["Metadata"]]
    return layer


@pytest.mark.parametrize("recipe", ["int8-max", "int8-fp16"])
def test_the_kernel_of_an_addition_reads_its_residual_branch_in_int8(recipe: str) -> None:
    lowered = lower(quantized(network("what a layer reads"), recipe), "s8")
    assert "Int8" in types(kernel_of("node_joined", printed(lowered)), "Inputs")


def test_what_two_layers_make_is_added_as_it_is() -> None:
    graph = quantized(network("a convolution"))
    assert residual_branches(graph.graph) == ()
    # The builder runs the shortcut's convolution right before the kernel that adds.
    layers = printed(lower(graph, "s8"))
    adding = layers.index(kernel_of("node_joined", layers))
    assert "[ONNX Layer: side]" in layers[adding - 1]["Metadata"]


def test_a_branch_between_layers_gets_the_symmetric_form_of_its_own_range() -> None:
    lowered = lower(quantized(network("a pool")), "s8")
    joined = next(node for node in lowered.graph.node if node.name == "node_joined")
    assert joined.input[1] == "side.branch.dequantized"


def test_a_branch_whose_range_nobody_saw_stays_in_floating_point() -> None:
    lowered = lower(quantized(network("what no layer reads")), "s8")
    joined = next(node for node in lowered.graph.node if node.name == "node_joined")
    assert list(joined.input) == ["second.y", "side"]


def test_without_a_quantizer_on_it_the_branch_is_written_twice() -> None:
    graph = quantized(network("what a layer reads"))
    twice = [layer for layer in printed(without_results(graph)) if len(layer["Outputs"]) == 2]
    assert [types(layer, "Outputs") for layer in twice] == [["Int8", "Float"]]
    once = [layer for layer in printed(lower(graph, "s8")) if len(layer["Outputs"]) == 2]
    assert once == []


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_every_zero_point_that_tensorrt_gets_is_zero(shortcut: str) -> None:
    lowered = lower(quantized(network(shortcut)), "s8")
    zeros = [
        onnx.numpy_helper.to_array(item)
        for item in lowered.graph.initializer
        if item.name.endswith("zero_point")
    ]
    assert zeros
    assert not any(values.any() for values in zeros)
    assert {values.dtype for values in zeros} == {np.dtype(np.int8)}


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_the_answers_stay_next_to_those_without_it(shortcut: str) -> None:
    model = network(shortcut)
    graph = quantized(model)
    exact, before, after = (
        graphs.run(form, X) for form in (model, without_results(graph), lower(graph, "s8"))
    )
    assert np.abs(after - exact).mean() <= 1.5 * np.abs(before - exact).mean()


def test_an_addition_of_floats_has_no_branch_to_quantize() -> None:
    assert residual_branches(network("a convolution").graph) == ()
