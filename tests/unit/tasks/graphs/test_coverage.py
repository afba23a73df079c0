"""What can be quantized of a graph is a fraction of all it stores, and the rest has its reason."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tasks.graphs.coverage import coverage, stored_shorter
from tasks.graphs.short_floats import shortened
from tasks.graphs.sites import find_sites
from tasks.numerics.formats import NumberFormat
from tasks.quantization.graph import qdq
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import RECIPES
from tests import graphs
from tests.unit.tasks.quantization.observations import observe


def test_a_product_alone_is_covered_but_for_its_bias() -> None:
    model = graphs.product(np.ones((4, 8), np.float32))
    covered = coverage(model, find_sites(model), {"x": (2, 4)})
    assert (covered.layers, covered.products, covered.left) == (1, 1.0, ())
    assert covered.weights == pytest.approx(32 / 40)


def test_what_is_left_counts_and_is_named_with_its_reason() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "down"),
        helper.make_node("ConvTranspose", ["h", "v"], ["y"], "up", strides=[2, 2]),
    ]
    weights = {"w": np.ones((4, 3, 1, 1), np.float32), "v": np.ones((4, 3, 2, 2), np.float32)}
    model = graphs.model(nodes, weights, {"x": ["n", 3, 8, 8]}, {"y": ["n", 3, 16, 16]})
    covered = coverage(model, find_sites(model), {"x": (1, 3, 8, 8)})
    assert covered.weights == pytest.approx(12 / 60)
    assert covered.products == pytest.approx(12 / 60)
    assert covered.sentences == (
        "1 layer, 20.0% of the weights, 20.0% of the products",
        "up (ConvTranspose, 48 weights): transposed convolutions stay in floating point",
    )


def test_a_recurrent_layer_counts_at_every_step() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "fc"),
        helper.make_node("LSTM", ["h", "i", "r"], ["y"], "recur", hidden_size=2),
    ]
    weights = {
        "w": np.ones((6, 4), np.float32),
        "i": np.ones((1, 8, 4), np.float32),
        "r": np.ones((1, 8, 2), np.float32),
    }
    model = graphs.model(nodes, weights, {"x": ["t", "n", 6]}, {"y": ["t", 1, "n", 2]})
    covered = coverage(model, find_sites(model), {"x": (5, 3, 6)})
    assert covered.products == pytest.approx(24 / (24 + 32 + 16))
    assert covered.sentences[1:] == (
        "recur (LSTM, 48 weights): only ONNX Runtime multiplies an LSTM in INT8: see by target",
    )


def test_products_that_cannot_be_counted_are_not_guessed() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "fc"),
        helper.make_node("Einsum", ["h", "v"], ["y"], "mix", equation="nij,jk->nik"),
    ]
    weights = {"w": np.ones((4, 4), np.float32), "v": np.ones((4, 5), np.float32)}
    model = graphs.model(nodes, weights, {"x": ["n", 3, 4]}, {"y": ["n", 3, 5]})
    covered = coverage(model, find_sites(model), {"x": (1, 3, 4)})
    assert covered.products is None
    assert [item.node for item in covered.left] == ["mix"]


def test_the_fraction_of_a_written_graph_is_of_all_that_the_graph_stores() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "gather"),
        helper.make_node("Add", ["x", "rows"], ["h"], "add"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "fc"),
    ]
    weights = {
        "table": rng.standard_normal((600, 8)).astype(np.float32),
        "ids": np.asarray([1, 2]),
        "w": rng.standard_normal((8, 100)).astype(np.float32),
    }
    model = graphs.model(nodes, weights, {"x": [2, 8]}, {"y": [2, 100]})
    sites, observed = observe(model, rng.standard_normal((2, 8)).astype(np.float32))

    def written(recipe: str) -> float:
        graph = qdq.write(derive(model, sites, observed, RECIPES[recipe], None).plan)
        return stored_shorter(model, graph)

    assert written("int8-max") == pytest.approx(800 / 5600)
    assert written("int8-weights") == 1
    assert written("full-precision") == 0
    assert stored_shorter(model, shortened(model, NumberFormat.FP16, {})) == 1
