"""Graphs as exporters write them stay what they are, canonical and in fewer bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tasks.graphs.canonical.names import ENDINGS, OWN
from tasks.graphs.canonical.passes import make_canonical
from tasks.graphs.files import load_graph
from tasks.graphs.sites import find_sites
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.qdq import write
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import RECIPES
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

Floats = NDArray[np.float32]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 6)).astype(np.float32)
TOKENS = RNG.standard_normal((64, 5, 8)).astype(np.float32)
IMAGES = RNG.standard_normal((16, 3, 8, 8)).astype(np.float32)
node = helper.make_node


def weight(*shape: int) -> Floats:
    return (RNG.standard_normal(shape) / 3).astype(np.float32)


def gemm(added: Floats | None, **options: float) -> onnx.ModelProto:
    """Make a Gemm of x [n, 6] with what is added to it; None where that is computed."""
    weights = {"w": weight(6, 8)} | ({"u": weight(6, 8)} if added is None else {"c": added})
    before = [node("MatMul", ["x", "u"], ["c"], "first")] if added is None else []
    nodes = [*before, node("Gemm", ["x", "w", "c"], ["y"], "product", **options)]
    return graphs.model(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 8]})


def weight_on_the_left() -> onnx.ModelProto:
    nodes = [
        node("Gemm", ["w", "x", "c"], ["h"], "left", alpha=0.5, beta=2.0, transB=1),
        node("Transpose", ["h"], ["y"], "turn", perm=[1, 0]),
    ]
    weights = {"w": weight(8, 6), "c": weight(8, 1)}
    return graphs.model(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 8]})


def heads() -> onnx.ModelProto:
    """Make Keras's dense layers over heads, [n, t, 8] -> the same."""
    nodes = [
        node("Einsum", ["x", "w"], ["q"], "query", equation="abc,cde->abde"),
        node("Einsum", ["q", "v"], ["y"], "output", equation="abcd,cde->abe"),
    ]
    weights = {"w": weight(8, 2, 4), "v": weight(2, 4, 8)}
    return graphs.model(nodes, weights, {"x": ["n", "t", 8]}, {"y": ["n", "t", 8]})


def computed_bias() -> onnx.ModelProto:
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"], "pool"),
        node("ReduceMean", ["p"], ["b"], "mean", axes=[0, 2, 3], keepdims=0),
        node("Conv", ["x", "w", "b"], ["y"], "conv"),
    ]
    weights = {"w": weight(3, 3, 3, 3)}
    size = {"x": ["n", 3, 8, 8]}
    return graphs.model(nodes, weights, size, {"y": ["n", 3, 6, 6]}, opset=17)


def channels_last() -> onnx.ModelProto:
    """Make a Relu whose result is turned before the next convolution reads it."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], "first"),
        node("Transpose", ["c"], ["t"], "last", perm=[0, 2, 3, 1]),
        node("Relu", ["t"], ["r"], "relu"),
        node("Transpose", ["r"], ["u"], "first again", perm=[0, 3, 1, 2]),
        node("Conv", ["u", "v"], ["y"], "second"),
    ]
    weights = {"w": weight(4, 3, 3, 3), "v": weight(2, 4, 3, 3)}
    return graphs.model(nodes, weights, {"x": ["n", 3, 8, 8]}, {"y": ["n", 2, 4, 4]})


def read_twice() -> onnx.ModelProto:
    """Make a product of a product, each row of which has a range of its own."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], "first"),
        node("MatMul", ["h", "v"], ["y"], "second"),
    ]
    weights = {"w": weight(6, 8), "v": weight(8, 8)}
    return graphs.model(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 8]})


def both_domains() -> onnx.ModelProto:
    model = read_twice()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 20))
    model.graph.node[0].domain = "ai.onnx"
    return model


def weight_of_another() -> onnx.ModelProto:
    """Make a node `fc` that reads an activation called `fc.weight`."""
    nodes = [
        node("MatMul", ["x", "w"], ["fc.weight"], "first"),
        node("MatMul", ["fc.weight", "v"], ["y"], "fc"),
    ]
    weights = {"w": weight(6, 8), "v": weight(8, 8)}
    return graphs.model(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 8]})


def branches() -> onnx.ModelProto:
    """Make branches that call what they hold as the graph around them does, or as Requant could."""

    def branch(stored: str, result: str) -> onnx.GraphProto:
        made = helper.make_tensor_value_info(result, TensorProto.FLOAT, ["n", 8])
        inner = node("MatMul", ["x", stored], [result], "second.quantize")
        return helper.make_graph(
            [inner], "b", [], [made], [numpy_helper.from_array(weight(6, 8), stored)]
        )

    nodes = [
        node("ReduceSum", ["x"], ["s"], "sum", keepdims=0),
        node("Greater", ["s", "zero"], ["c"], "greater"),
        node(
            "If",
            ["c"],
            ["h"],
            "if",
            then_branch=branch("h.quantized", "h.scale"),
            else_branch=branch("v", "h.dequantized"),
        ),
        node("MatMul", ["h", "v"], ["y"], "second"),
    ]
    weights = {"v": weight(8, 8), "zero": np.float32(0)}
    return graphs.model(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 8]})


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Floats, int]] = {
    "a number for every column": (lambda: gemm(weight(), beta=3.0), X, 1),
    "one number": (lambda: gemm(weight(1, 1), alpha=0.5, beta=3.0), X, 1),
    "one row": (lambda: gemm(weight(1, 8), beta=0.5), X, 1),
    "one column": (lambda: gemm(weight(64, 1), alpha=0.5), X, 1),
    "every number": (lambda: gemm(weight(64, 8), beta=2.0), X, 1),
    "computed": (lambda: gemm(None, alpha=0.5, beta=3.0), X, 2),
    "on the left": (weight_on_the_left, X, 1),
    "Einsum": (heads, TOKENS, 2),
    "a bias that is computed": (computed_bias, IMAGES, 1),
    "channels last": (channels_last, IMAGES, 2),
    "a row's range": (read_twice, X, 2),
    "two names of a domain": (both_domains, X, 2),
    "another's weight": (weight_of_another, X, 2),
    "branches": (branches, X, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_what_an_exporter_wrote_is_computed_in_fewer_bits_too(case: str) -> None:
    make, x, layers = CASES[case]
    untouched = make()
    expected = graphs.run(untouched, x)
    model = make_canonical(untouched, where="model.onnx")
    assert np.allclose(graphs.run(model, x), expected, atol=1e-5)
    assert sum(len(site.layers) for site in find_sites(model)) == layers
    sites, observed = observe(model, x)
    rows = all(site.multiplies_rows for site in sites)
    per_token = ("int8-per-token",) if rows else ()
    for name in ("int8-max", "int8-bias-corrected", "int4-block-32", "fp8", "fp16", *per_token):
        graph = lower(write(derive(model, sites, observed, RECIPES[name], None).plan), "u8")
        error = float(np.linalg.norm(graphs.run(graph, x) - expected) / np.linalg.norm(expected))
        assert error < (0.25 if name in ("int4-block-32", "fp8") else 0.05), name


def nested(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and those within it."""
    yield graph
    for item in (item for node in graph.node for item in node.attribute):
        if item.type == onnx.AttributeProto.GRAPH:
            yield from nested(item.g)


def made_names(draws: random.Random, count: int) -> list[str]:
    """Draw names, each of which Requant could make of another."""
    names: set[str] = set()
    while len(names) < count:
        stem = draws.choice(["x", "y", "fc", OWN.rstrip("."), *sorted(names)[:6]])
        names.add(f"{stem}.{draws.choice([*ENDINGS, 'weight.scale', 'result.quantized'])}")
    return draws.sample(sorted(names), count)


def renamed(model: onnx.ModelProto, draws: random.Random) -> onnx.ModelProto:
    """Call everything but x and y, nodes too, by names that Requant could make."""
    inside = [
        name
        for graph in nested(model.graph)
        for name in (
            *(item.name for item in graph.initializer),
            *(name for node in graph.node for name in node.output),
        )
    ]
    tensors = sorted({*inside} - {"y"})
    pool = made_names(draws, len(tensors))
    names = dict(zip(tensors, pool, strict=True))
    for graph in nested(model.graph):
        for item in (*graph.initializer, *graph.output):
            item.name = names.get(item.name, item.name)
        for node in graph.node:
            node.name = draws.choice([*pool, "x", "y", "fc"])
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for again in range(1, len(graph.node)):
            if graph.node[again].name in {node.name for node in graph.node[:again]}:
                graph.node[again].name = ""
    return model


@pytest.mark.parametrize("seed", range(len(CASES)))
def test_a_model_may_call_things_as_requant_does(seed: int) -> None:
    make, x, _ = list(CASES.values())[seed]
    draws = random.Random(seed)  # names, no secrets
    model = renamed(make(), draws)
    expected = graphs.run(model, x)
    canonical = make_canonical(model, where="model.onnx")
    sites, observed = observe(canonical, x)
    for name in draws.sample(["int8-smooth", "int8-equalized", "fp16", "int8-compact", "fp8"], 2):
        graph = lower(write(derive(canonical, sites, observed, RECIPES[name], None).plan), "u8")
        error = float(np.linalg.norm(graphs.run(graph, x) - expected) / np.linalg.norm(expected))
        assert error < (0.25 if name == "fp8" else 0.05), name


@pytest.mark.parametrize(("given", "expected"), [({}, 1), ({"transposed": 0}, 0)])
def test_a_functions_default_is_what_a_call_without_the_attribute_means(
    given: dict[str, int], expected: int, tmp_path: Path
) -> None:
    inner = node("Gemm", ["a", "b"], ["c"])
    inner.attribute.append(
        onnx.AttributeProto(name="transB", type=onnx.AttributeProto.INT, ref_attr_name="transposed")
    )
    default = [helper.make_attribute("transposed", 1)]
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function(
        "local", "Product", ["a", "b"], ["c"], [inner], opset, attribute_protos=default
    )
    model = graphs.model(
        [node("Product", ["x", "w"], ["y"], "call", domain="local", **given)],
        {"w": weight(6, 6)},
        {"x": ["n", 6]},
        {"y": ["n", 6]},
        opset=17,
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(function)
    onnx.save(model, tmp_path / "model.onnx")
    (product,) = load_graph(tmp_path / "model.onnx").graph.node
    assert helper.get_node_attr_value(product, "transB") == expected
