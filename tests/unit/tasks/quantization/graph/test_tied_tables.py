"""A table that is embedding and output layer at once is stored once, where one form serves both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from infra.engines.onnx_sessions import session_options
from infra.settings import Settings
from infra.weights.naming import tensors_beside, weight_file
from tasks.graphs.weights import constant_values, large_beside
from tasks.quantization.graph import qdq
from tasks.quantization.graph.assemble import assemble, find_tables
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.tuning import tune
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.least_size import least_bytes
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

WORDS, WIDTH = 160, 64
RNG = np.random.default_rng(7)
X = (RNG.standard_normal((6, WIDTH)) * RNG.lognormal(0, 1, WIDTH)).astype(np.float32)
LOST = {"int8": 0.03, "int4": 0.2, "fp16": 2e-3}
"""Largest part of the answer that a recipe may lose, by the first letters of its name."""


def decoder() -> onnx.ModelProto:
    """Return a layer between an embedding of six words and the output layer of the same table."""
    nodes = [
        helper.make_node("Gather", ["head.weight", "ids"], ["columns"], "gather", axis=1),
        helper.make_node("Transpose", ["columns"], ["rows"], "turn", perm=[1, 0]),
        helper.make_node("Add", ["rows", "x"], ["read"], "read"),
        helper.make_node("MatMul", ["read", "layers.0.weight"], ["h"], "layers.0"),
        helper.make_node("Add", ["h", "rows"], ["left"], "left"),
        helper.make_node("MatMul", ["left", "head.weight"], ["y"], "head"),
    ]
    weights = {
        "head.weight": RNG.standard_normal((WIDTH, WORDS)).astype(np.float32),
        "layers.0.weight": RNG.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 8,
        "ids": np.asarray([3, 0, 159, 7, 7, 90]),
    }
    return graphs.model(nodes, weights, {"x": [6, WIDTH]}, {"y": [6, WORDS]})


def written(model: onnx.ModelProto, name: str, *excluded: str) -> onnx.ModelProto:
    sites, observed = observe(model, X)
    recipe = find_recipe(name)
    choices = tune(model, sites, observed, recipe, None).choices
    graph = qdq.write(assemble(model, sites, observed, recipe, choices, excluded))
    onnx.checker.check_model(graph, full_check=True)
    return graph


def stored(graph: onnx.ModelProto) -> list[str]:
    """Return the types in which a graph stores the table's numbers."""
    kinds = [
        item.data_type
        for item in graph.graph.initializer
        if int(np.prod(item.dims)) == WORDS * WIDTH
    ]
    return sorted(onnx.TensorProto.DataType.Name(kind) for kind in kinds)


@pytest.mark.parametrize(
    ("recipe", "kinds"),
    [
        ("int8-weights", ["INT8"]),
        ("int4-gptq", ["INT8"]),
        ("int8-smooth", ["FLOAT", "INT8"]),
        ("int8-compact", ["INT8", "INT8"]),  # smoothed, the layer's numbers are other ones
        ("fp16", ["FLOAT16"]),
    ],
)
def test_the_embedding_reads_what_the_output_layer_stores(recipe: str, kinds: list[str]) -> None:
    model = decoder()
    graph = written(model, recipe)
    assert stored(graph) == kinds
    exact = graphs.run(model, X)
    limit = LOST[recipe.split("-", maxsplit=1)[0]] * np.abs(exact).max()
    for form in ("u8", "plain"):
        assert np.abs(graphs.run(lower(graph, form), X) - exact).max() < limit
    assert least_bytes(model, observe(model, X)[0], find_recipe(recipe)) <= graph.ByteSize()


def test_onnx_runtime_multiplies_by_a_shared_table_as_it_is_stored(
    workspace: Settings, tmp_path: Path
) -> None:
    graph = written(decoder(), "int8-weights")
    for item in graph.graph.initializer:
        item.CopyFrom(large_beside(constant_values(item), item.name))
    low = lower(graph, "u8")
    options = session_options(low.SerializeToString(), tmp_path / "run.onnx")
    ort.InferenceSession(low.SerializeToString(), options, ["CPUExecutionProvider"])
    run = onnx.load(tmp_path / "run.onnx", load_external_data=False)
    assert [node.op_type for node in run.graph.node if "y" in node.output] == ["MatMulNBits"]
    levels = [weight_file(item) for item in tensors_beside(low) if WORDS in item.dims]
    assert len(levels) == 2
    assert len(set(levels)) == 1


def test_a_table_whose_layer_stays_in_float32_stays_too() -> None:
    assert stored(written(decoder(), "int8-weights", "head")) == ["FLOAT"]
    assert stored(written(decoder(), "fp16", "head")) == ["FLOAT"]


def test_the_bound_counts_a_table_once_for_each_form_that_it_is_stored_in() -> None:
    model, both = decoder(), WORDS * WIDTH
    sites = observe(model, X)[0]
    layer = WIDTH * WIDTH
    assert least_bytes(model, sites, find_recipe("int8-weights")) == both + layer
    assert least_bytes(model, sites, find_recipe("int8-smooth")) == 4 * both + both + layer


def test_a_constant_that_something_else_reads_is_no_table() -> None:
    (table,) = find_tables(decoder())
    assert (table.name, table.axis, table.products) == ("head.weight", 1, ("head",))
    model = decoder()
    model.graph.node.append(helper.make_node("Neg", ["head.weight"], ["z"], "other"))
    assert not find_tables(model)
    model = decoder()
    model.graph.node[0].attribute[0].i = 0  # rows of what is multiplied by columns
    assert not find_tables(model)
