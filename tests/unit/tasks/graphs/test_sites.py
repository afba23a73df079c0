"""Which activations can be quantized, what they are called, and which never are."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from infra.errors import BadInput
from tasks.graphs.sites import expose, find_sites, layer_weight
from tests import graphs

W = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
KERNEL = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)


def test_a_product_is_a_site_named_after_the_bias_beside_it() -> None:
    (site,) = find_sites(graphs.product(W, module="encoder.layer.0.output.dense"))
    assert (site.name, site.tensor, site.channel_axis) == ("encoder.layer.0.output.dense", "x", -1)
    assert site.can_smooth


@pytest.mark.parametrize("transposed", [False, True])
def test_a_gemm_is_a_site_whose_outputs_lie_along_the_right_axis(transposed: bool) -> None:
    model = graphs.gemm(W.T.copy() if transposed else W, transposed=transposed)
    (site,) = find_sites(model)
    assert site.name == "fc"
    assert (layer_weight(model, site.layers[0]) == W.T).all()  # [outputs, inputs] either way


def test_a_convolution_is_a_site_that_cannot_be_smoothed() -> None:
    model = graphs.convolution(KERNEL)
    (site,) = find_sites(model)
    assert (site.name, site.channel_axis, site.can_smooth) == ("conv", 1, False)
    assert (layer_weight(model, site.layers[0]) == KERNEL).all()


def test_a_shared_input_is_one_site_named_by_all_its_layers() -> None:
    names = [site.name for site in find_sites(graphs.encoder(8, layers=1))]
    assert names == [
        "layer.0.attention.{query,key,value}",
        "layer.0.attention.output",
        "layer.0.up",
        "layer.0.down",
    ]


def test_attention_scores_are_never_a_site() -> None:
    model = graphs.encoder(8, layers=2)
    layers = {layer.node for site in find_sites(model) for layer in site.layers}
    inner = [
        node for node in model.graph.node if node.op_type == "MatMul" and node.name not in layers
    ]
    assert len(inner) == 4  # two products of activations a layer
    weights = {item.name for item in model.graph.initializer}
    assert not any(set(node.input) & weights for node in inner)


def test_a_constant_times_an_activation_is_no_site() -> None:
    nodes = [helper.make_node("MatMul", ["w", "x"], ["y"], "n")]
    assert find_sites(graphs.model(nodes, {"w": W}, {"x": [6, 2]}, {"y": [4, 2]})) == ()


def test_a_stack_of_matrices_is_no_site() -> None:
    stack = np.ones((2, 4, 6), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "n")]
    assert find_sites(graphs.model(nodes, {"w": stack}, {"x": [2, 3, 4]}, {"y": [2, 3, 6]})) == ()


def test_a_weight_that_is_not_float32_is_no_site() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "n")]
    assert (
        find_sites(graphs.model(nodes, {"w": W.astype(np.float16)}, {"x": [2, 4]}, {"y": [2, 6]}))
        == ()
    )


def test_a_transposed_input_is_no_site() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], "n", transA=1)]
    assert find_sites(graphs.model(nodes, {"w": W}, {"x": [4, 2]}, {"y": [2, 6]})) == ()


def test_a_module_that_runs_twice_has_two_sites() -> None:
    square = np.eye(4, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p1"], "first"),
        helper.make_node("Add", ["p1", "shared.bias"], ["h"], "a1"),
        helper.make_node("MatMul", ["h", "w"], ["p2"], "second"),
        helper.make_node("Add", ["p2", "shared.bias"], ["y"], "a2"),
    ]
    weights = {"w": square, "shared.bias": np.zeros(4, np.float32)}
    sites = find_sites(graphs.model(nodes, weights, {"x": [2, 4]}, {"y": [2, 4]}))
    assert [site.name for site in sites] == ["shared", "shared#2"]


def test_a_site_that_feeds_a_convolution_too_is_observed_by_channel() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "m"),
        helper.make_node("Conv", ["x", "k"], ["y"], "c"),
    ]
    weights = {"w": np.ones((6, 6), np.float32), "k": KERNEL}
    (site,) = find_sites(
        graphs.model(nodes, weights, {"x": [1, 3, 6, 6]}, {"y": [1, 5, 5, 5], "p": [1, 3, 6, 6]})
    )
    assert (site.channel_axis, site.can_smooth) == (1, False)


@pytest.mark.parametrize("names", [("", "b"), ("same", "same")])
def test_layers_that_cannot_be_told_apart_are_bad_input(names: tuple[str, str]) -> None:
    square = np.eye(4, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], names[0]),
        helper.make_node("MatMul", ["h", "w"], ["y"], names[1]),
    ]
    with pytest.raises(BadInput, match="without a name, or two of one name"):
        find_sites(graphs.model(nodes, {"w": square}, {"x": [2, 4]}, {"y": [2, 4]}))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_bad_input(broken: float) -> None:
    weight = W.copy()
    weight[1, 1] = broken
    model = graphs.product(weight)
    with pytest.raises(BadInput, match="the weight of fc holds NaN"):
        layer_weight(model, find_sites(model)[0].layers[0])


def test_an_exposed_graph_returns_every_site_and_the_same_answer() -> None:
    model = graphs.encoder(8, layers=1)
    sites = find_sites(model)
    shown = expose(model, sites)
    assert [output.name for output in shown.graph.output] == [
        "y",
        *(site.tensor for site in sites[1:]),
    ]
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
    assert np.allclose(graphs.run(shown, x), graphs.run(model, x), atol=1e-5)
    assert len(model.graph.output) == 1  # the original is left alone
