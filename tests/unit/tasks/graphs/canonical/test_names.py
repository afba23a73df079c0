"""No name of a model is one that Requant would make, whatever the exporter called things."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import helper

from infra.engines import open_target
from tasks.graphs.canonical.names import ENDINGS, free_names
from tasks.graphs.sites import find_sites
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.qdq import write
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import RECIPES
from tests import graphs
from tests.unit.tasks.quantization.test_derive import MODEL, OBSERVED, SITES
from tests.unit.tasks.quantization.test_derive import X as REQUESTS

X = np.random.default_rng(3).standard_normal((4, 6)).astype(np.float32)


def names(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    inner = (name for node in graph.node for name in (node.name, *node.output))
    return {*inner, *(item.name for item in (*graph.initializer, *graph.input))} - {""}


def clashing(name: str, result: str = "h") -> onnx.ModelProto:
    """Make a tensor `h` and a constant that bears this name."""
    nodes = [
        helper.make_node("Add", ["x", name], [result], "up"),
        helper.make_node("MatMul", [result, "w"], ["y"], "down"),
    ]
    weights = {name: np.ones(6, np.float32), "w": np.eye(6, 3, dtype=np.float32)}
    return graphs.model(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 3]})


@pytest.mark.parametrize("ending", [*ENDINGS, "weight.quantized", "weight.scale", "3.rounded"])
@pytest.mark.parametrize("stem", ["h", "up", "down", "w", "x"])
def test_a_name_that_could_be_made_of_another_is_changed(stem: str, ending: str) -> None:
    model = clashing(f"{stem}.{ending}")
    before = open_target("onnxruntime-cpu").load(model.SerializeToString()).run({"x": X})
    free_names(model)
    after = open_target("onnxruntime-cpu").load(model.SerializeToString()).run({"x": X})
    assert np.array_equal(before["y"], after["y"])
    left = [name for name in names(model) if name.startswith(f"{stem}.")]
    assert left == ([f"{stem}.weight"] if ending == "weight" else [])


@pytest.mark.parametrize("public", ["x.scale", "x.dequantized"])
def test_an_output_keeps_its_name_and_the_input_is_read_under_another(public: str) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], "down"),
        helper.make_node("Neg", ["x"], [public], "turn"),
    ]
    weights = {"w": np.eye(6, 3, dtype=np.float32)}
    model = graphs.model(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 3], public: ["n", 6]})
    free_names(model)
    assert [item.name for item in model.graph.output] == ["y", public]
    assert find_sites(model)[0].tensor != "x"
    outputs = open_target("onnxruntime-cpu").load(model.SerializeToString()).run({"x": X})
    assert np.array_equal(outputs[public], -X)


def test_names_that_nothing_makes_stay() -> None:
    model = graphs.product(np.eye(4, dtype=np.float32))
    before = model.SerializeToString()
    free_names(model)
    assert model.SerializeToString() == before


def written() -> Iterator[onnx.ModelProto]:
    for recipe in RECIPES.values():
        if (
            recipe.quantized
            and not recipe.starts_from_champion
            and recipe.high_precision_sites < len(SITES)
        ):
            graph = write(derive(MODEL, SITES, OBSERVED, recipe, None).plan)
            yield graph
            yield from (lower(graph, form) for form in ("s8", "u8"))


def test_everything_that_a_quantized_graph_gains_has_such_a_name() -> None:
    assert REQUESTS.size
    own = names(MODEL)
    gained = set().union(*(names(graph) for graph in written())) - own
    assert len(gained) > 100
    untold = []
    for name in sorted(gained):
        probe = onnx.ModelProto()
        probe.CopyFrom(MODEL)
        probe.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), name))
        free_names(probe)
        if name in names(probe):
            untold.append(name)
    assert untold == []
