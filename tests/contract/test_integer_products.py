"""A quantized product runs in INT8 on ONNX Runtime, however the exporter wrote its bias."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper

from infra.engines import open_target
from infra.engines.port import Shapes
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
