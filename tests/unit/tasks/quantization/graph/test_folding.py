"""Factors moved into the layer before: the same function, and no product left where they fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tasks.graphs.sites import Site, layer_weight
from tasks.numerics.quantized_weight import multiplied
from tasks.quantization.activation.quantizers import SiteQuantizer, quantizer
from tasks.quantization.graph import qdq
from tasks.quantization.graph.assemble import assemble
from tasks.quantization.graph.folding import fold
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.schemes import Static
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

Weights = Mapping[str, NDArray[np.generic]]
WIDTH, INNER = 16, 32


@dataclass(frozen=True)
class Case:
    """A graph, what it is run on, and the sites whose factors the layer before can take."""

    model: onnx.ModelProto
    x: graphs.Floats
    folds: frozenset[str]


def normal(seed: int, *shape: int) -> graphs.Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network(nodes: list[tuple[str, list[str], str]], weights: Weights) -> onnx.ModelProto:
    """Join nodes as (operator, inputs, output), named after their outputs.

    x [n, 16] -> y [n, 16].
    """
    made = [
        helper.make_node(op, inputs, [output], f"node_{output}") for op, inputs, output in nodes
    ]
    return graphs.model(made, weights, {"x": ["n", WIDTH]}, {"y": ["n", WIDTH]})


def layer_norm() -> Case:
    model = network(
        [
            ("LayerNormalization", ["x", "gain", "shift"], "normed"),
            ("MatMul", ["normed", "fc.weight"], "y"),
        ],
        {"gain": normal(1, WIDTH), "shift": normal(2, WIDTH), "fc.weight": normal(3, WIDTH, WIDTH)},
    )
    return Case(model, normal(0, 64, WIDTH), frozenset({"fc"}))


DECOMPOSED: list[tuple[str, list[str], str]] = [
    ("Pow", ["x", "two"], "squared"),
    ("ReduceMean", ["squared", "axes"], "mean"),
    ("Add", ["mean", "epsilon"], "above"),
    ("Sqrt", ["above"], "root"),
    ("Reciprocal", ["root"], "inverse"),
    ("Mul", ["x", "inverse"], "scaled"),
    ("Mul", ["gain", "scaled"], "normed"),
]


def rms_norm() -> Case:
    """Return an RMS norm as exports write a Llama's: its two readers share the factors."""
    weights = {
        "two": np.float32(2),
        "axes": np.array([-1]),
        "epsilon": np.float32(1e-6),
        "gain": normal(1, WIDTH),
        "q.weight": normal(2, WIDTH, WIDTH),
        "k.weight": normal(3, WIDTH, WIDTH),
    }
    ends: list[tuple[str, list[str], str]] = [
        ("MatMul", ["normed", "q.weight"], "q"),
        ("MatMul", ["normed", "k.weight"], "k"),
        ("Add", ["q", "k"], "y"),
    ]
    return Case(network([*DECOMPOSED, *ends], weights), normal(0, 64, WIDTH), frozenset({"{q,k}"}))


def swiglu() -> Case:
    """Return down(silu(gate(x)) * up(x)).

    The gate passes through a sigmoid, so the factors belong into `up`.
    """
    nodes: list[tuple[str, list[str], str]] = [
        ("MatMul", ["x", "gate.weight"], "gate"),
        ("MatMul", ["x", "up.weight"], "up"),
        ("Sigmoid", ["gate"], "opened"),
        ("Mul", ["gate", "opened"], "silu"),
        ("Mul", ["silu", "up"], "gated"),
        ("MatMul", ["gated", "down.weight"], "y"),
    ]
    weights = {
        "gate.weight": normal(1, WIDTH, INNER),
        "up.weight": normal(2, WIDTH, INNER),
        "down.weight": normal(3, INNER, WIDTH),
    }
    return Case(network(nodes, weights), normal(0, 64, WIDTH), frozenset({"down"}))


def relu() -> Case:
    """Fold over the ReLU and the bias into the rows of the layer before."""
    return Case(_feed_forward("Relu"), normal(0, 64, WIDTH), frozenset({"down"}))


def gelu() -> Case:
    """Divide above a GELU by a product: the GELU of x / s is not that of x, divided by s."""
    return Case(_feed_forward("Gelu"), normal(0, 64, WIDTH), frozenset())


def _feed_forward(between: str) -> onnx.ModelProto:
    nodes: list[tuple[str, list[str], str]] = [
        ("MatMul", ["x", "up.weight"], "p"),
        ("Add", ["p", "up.bias"], "q"),
        (between, ["q"], "h"),
        ("MatMul", ["h", "down.weight"], "y"),
    ]
    weights = {
        "up.weight": normal(1, WIDTH, INNER),
        "up.bias": normal(2, INNER),
        "down.weight": normal(3, INNER, WIDTH),
    }
    return network(nodes, weights)


def norm_with_another_reader() -> Case:
    """Return a norm that a residual reads too: divided, it would be wrong there."""
    model = network(
        [
            ("LayerNormalization", ["x", "gain"], "normed"),
            ("MatMul", ["normed", "fc.weight"], "p"),
            ("Add", ["normed", "p"], "y"),
        ],
        {"gain": normal(1, WIDTH), "fc.weight": normal(2, WIDTH, WIDTH)},
    )
    return Case(model, normal(0, 64, WIDTH), frozenset())


def norms_that_share_a_gain() -> Case:
    model = network(
        [
            ("LayerNormalization", ["x", "gain"], "first"),
            ("MatMul", ["first", "a.weight"], "p"),
            ("LayerNormalization", ["p", "gain"], "second"),
            ("MatMul", ["second", "b.weight"], "y"),
        ],
        {
            "gain": normal(1, WIDTH),
            "a.weight": normal(2, WIDTH, WIDTH),
            "b.weight": normal(3, WIDTH, WIDTH),
        },
    )
    return Case(model, normal(0, 64, WIDTH), frozenset())


def convolutions() -> Case:
    return Case(graphs.convolutions(), normal(0, 8, 3, 8, 8), frozenset({"second"}))


def grouped_convolutions() -> Case:
    return Case(graphs.convolutions(grouped=True), normal(0, 8, 3, 8, 8), frozenset({"second"}))


CASES: tuple[Callable[[], Case], ...] = (
    layer_norm,
    rms_norm,
    swiglu,
    relu,
    gelu,
    norm_with_another_reader,
    norms_that_share_a_gain,
    convolutions,
    grouped_convolutions,
)
every_case = pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)


def factors_of(sites: tuple[Site, ...], widths: Mapping[str, int]) -> dict[str, graphs.Floats]:
    rng = np.random.default_rng(9)
    return {site.name: rng.lognormal(0, 1, widths[site.name]).astype(np.float32) for site in sites}


def smoothed(case: Case) -> tuple[onnx.ModelProto, frozenset[str]]:
    """Return the graph in FP32 with every site divided and every weight multiplied.

    A site is divided by folding, or by a product.
    """
    sites, observed = observe(case.model, case.x)
    smoothing_scales = factors_of(
        sites, {name: item.channel_amax.size for name, item in observed.items()}
    )
    model, done = fold(case.model, sites, smoothing_scales)
    constants = {item.name: item for item in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    for site in sites:
        by = smoothing_scales[site.name]
        if site.name not in done:
            shape = (1, -1, 1, 1) if site.channel_axis == 1 else (-1,)
            model.graph.initializer.append(
                numpy_helper.from_array((1 / by).reshape(shape), f"{site.tensor}.factors")
            )
            product = helper.make_node(
                "Mul", [site.tensor, f"{site.tensor}.factors"], [f"{site.tensor}.divided"]
            )
            place = min(list(model.graph.node).index(nodes[layer.node]) for layer in site.layers)
            model.graph.node.insert(place, product)
        for layer in site.layers:
            weight = np.moveaxis(multiplied(layer_weight(model, layer), by), 0, layer.output_axis)
            constants[layer.weight].CopyFrom(
                numpy_helper.from_array(np.ascontiguousarray(weight), layer.weight)
            )
            if site.name not in done:
                next(node for node in model.graph.node if node.name == layer.node).input[0] = (
                    f"{site.tensor}.divided"
                )
    return model, done


@every_case
def test_the_output_in_full_precision_stays(make: Callable[[], Case]) -> None:
    case = make()
    exact, found = graphs.run(case.model, case.x), graphs.run(smoothed(case)[0], case.x)
    assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()


@every_case
def test_factors_fold_where_the_layer_before_can_take_them_and_nowhere_else(
    make: Callable[[], Case],
) -> None:
    case = make()
    assert smoothed(case)[1] == case.folds


@every_case
def test_a_product_is_written_where_the_factors_do_not_fold_and_none_where_they_do(
    make: Callable[[], Case],
) -> None:
    case = make()
    sites, observed = observe(case.model, case.x)
    smoothing_scales = factors_of(
        sites, {name: item.channel_amax.size for name, item in observed.items()}
    )
    choices = {
        name: SiteQuantizer(quantizer(observed[name], Static(), by), by)
        for name, by in smoothing_scales.items()
    }
    written = qdq.write(assemble(case.model, sites, observed, find_recipe("int8-max"), choices, ()))
    before, after = (
        {node.name for node in model.graph.node if node.op_type == "Mul"}
        for model in (case.model, written)
    )
    assert after - before == {
        f"{site.tensor}.smooth" for site in sites if site.name not in case.folds
    }
