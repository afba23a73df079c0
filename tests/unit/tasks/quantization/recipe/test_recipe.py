"""Every combination of techniques is refused at definition, or gives the quantizers it names."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat, PerBlock, PerChannel, PerTensor
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.activation import quantizers
from tasks.quantization.graph import qdq
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import (
    Awq,
    Cast,
    DeployedSmoothing,
    Dynamic,
    Equalized,
    Gptq,
    Head,
    HighPrecision,
    Nearest,
    RangeRule,
    Searched,
    Static,
    Trained,
)
from tasks.quantization.weight import rounding
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

RNG = np.random.default_rng(11)
MODEL = graphs.product((RNG.standard_normal((32, 8)) / 10).astype(np.float32))
SITES, OBSERVED = observe(MODEL, RNG.standard_normal((24, 32)).astype(np.float32))
(SITE,) = SITES
SCHEMES = [
    WeightScheme(format, granularity, symmetric)
    for format in (NumberFormat.INT8, NumberFormat.INT4, NumberFormat.INT2, NumberFormat.FP8)
    for granularity in (PerTensor(), PerChannel(), PerBlock(16))
    for symmetric in (True, False)
    if symmetric or format.is_integer
]
ACTIVATIONS = [
    None,
    Dynamic(),
    *(
        Static(NumberFormat.INT8, symmetric, rule)
        for symmetric in (True, False)
        for rule in RangeRule
    ),
    *(Static(NumberFormat.FP8, rule=rule) for rule in RangeRule),
]
SMOOTHINGS = [None, Searched(), Equalized(), DeployedSmoothing()]
ROUNDINGS = [Nearest(), Gptq(), Awq(), Trained(1)]
STORED = {
    NumberFormat.INT8: onnx.TensorProto.INT8,
    NumberFormat.INT4: onnx.TensorProto.INT4,
    NumberFormat.INT2: onnx.TensorProto.INT2,
    NumberFormat.FP8: onnx.TensorProto.FLOAT8E4M3FN,
}
DEPLOYED = derive(MODEL, SITES, OBSERVED, Recipe("int8", "int8"), None).scales


def defined(**techniques: object) -> Recipe | None:
    try:
        return Recipe("tried", "", **techniques)  # type: ignore[arg-type]  # every combination
    except BadInput:
        return None


def written(recipe: Recipe) -> onnx.GraphProto:
    return qdq.write(derive(MODEL, SITES, OBSERVED, recipe, DEPLOYED).plan).graph


def check_activation(recipe: Recipe, graph: onnx.GraphProto) -> None:
    types = {item.name: item.data_type for item in graph.initializer}
    nodes = {node.op_type: node for node in graph.node}
    match recipe.activation:
        case None:
            assert not {"QuantizeLinear", "DynamicQuantizeLinear"} & set(nodes)
        case Dynamic():
            assert "DynamicQuantizeLinear" in nodes
        case Static(format, symmetric):
            zero = nodes["QuantizeLinear"].input[2]
            assert types[zero] == STORED[format]
            (value,) = (item for item in graph.initializer if item.name == zero)
            if symmetric:
                assert float(onnx.numpy_helper.to_array(value).astype(np.float32)) == 0


def check_weights(recipe: Recipe, graph: onnx.GraphProto) -> None:
    constants = {item.name: item for item in graph.initializer}
    (name,) = (name for name in constants if name.endswith(".weight.quantized"))
    scales = constants[name.replace("quantized", "scale")]
    assert isinstance(recipe.weights, WeightScheme)
    assert constants[name].data_type == STORED[recipe.weights.format]
    shapes = {PerTensor: [], PerChannel: [8], PerBlock: [2, 8]}
    assert list(scales.dims) == shapes[type(recipe.weights.granularity)]


@pytest.mark.parametrize("smoothing", SMOOTHINGS, ids=str)
@pytest.mark.parametrize("technique", ROUNDINGS, ids=str)
@given(st.sampled_from(SCHEMES), st.sampled_from(ACTIVATIONS), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_combination_is_refused_or_gives_what_it_names(
    smoothing: object, technique: object, scheme: WeightScheme, activation: object, corrected: bool
) -> None:
    recipe = defined(
        weights=scheme,
        activation=activation,
        smoothing=smoothing,
        rounding=technique,
        bias_correction=corrected,
    )
    if recipe is None:
        return
    graph = written(recipe)
    check_activation(recipe, graph)
    check_weights(recipe, graph)
    if corrected or not recipe.corrects_means:
        assert any(item.name.endswith(".correction") for item in graph.initializer) == corrected


def test_the_combinations_that_are_defined_are_counted() -> None:
    kept = [
        recipe
        for scheme, activation, smoothing, technique in product(
            SCHEMES, ACTIVATIONS, SMOOTHINGS, ROUNDINGS
        )
        if (
            recipe := defined(
                weights=scheme, activation=activation, smoothing=smoothing, rounding=technique
            )
        )
    ]
    assert not [
        recipe
        for recipe in kept
        if isinstance(recipe.smoothing, Searched)
        and recipe.activation not in [Static(rule=rule) for rule in RangeRule]
    ]
    assert 0 < len(kept) < len(SCHEMES) * len(ACTIVATIONS) * len(SMOOTHINGS) * len(ROUNDINGS)


@pytest.mark.parametrize(
    ("techniques", "first", "second", "possible"),
    [
        (
            {"activation": Static(NumberFormat.FP8), "smoothing": Searched()},
            "searched smoothing",
            "FP8 activations",
            "use INT8 activations",
        ),
        (
            {"activation": Static(symmetric=False), "smoothing": Searched()},
            "searched smoothing",
            "asymmetric activations",
            "use symmetric activations",
        ),
        (
            {"activation": None, "smoothing": Equalized()},
            "smoothing",
            "fixed range",
            "use a static",
        ),
        ({"rounding": Awq()}, "AWQ", "fixed range", "floating point"),
        (
            {
                "rounding": Awq(),
                "activation": None,
                "weights": WeightScheme(granularity=PerTensor()),
            },
            "AWQ",
            "one scale a tensor",
            "per channel",
        ),
        (
            {"rounding": Trained(2), "activation": Static(NumberFormat.FP8)},
            "training",
            "FP8",
            "INT8",
        ),
        (
            {"smoothing": DeployedSmoothing(), "rounding": Gptq()},
            "champion's graph",
            "new weights",
            "keeps",
        ),
        (
            {"smoothing": DeployedSmoothing(), "activation": Static(symmetric=False)},
            "champion's graph",
            "format of its own",
            "range rule",
        ),
        ({"weights": Cast(NumberFormat.FP16)}, "shorter float", "quantized", "floating point"),
        (
            {"weights": Cast(NumberFormat.FP16), "activation": None, "rounding": Gptq()},
            "shorter float",
            "rounding",
            "leave these out",
        ),
        ({"quantized": False, "bias_correction": True}, "full precision", "a technique", "leave"),
        ({"tables": NumberFormat.INT4}, "embedding table", "int4", "use INT8"),
        ({"kv_cache": NumberFormat.INT4}, "keys and values", "int4", "use INT8 or FP8"),
        (
            {"kv_cache": NumberFormat.FP8, "smoothing": Searched()},
            "an FP8 cache",
            "smoothing",
            "leave smoothing out",
        ),
    ],
)
def test_a_refusal_names_both_techniques_and_what_is_possible(
    techniques: dict[str, object], first: str, second: str, possible: str
) -> None:
    with pytest.raises(BadInput) as refusal:
        Recipe("tried", "", **techniques)  # type: ignore[arg-type]  # what is refused
    text = str(refusal.value)
    assert text.index(first) < text.index(second) < text.index(possible)


def test_a_technique_refuses_what_it_cannot_be() -> None:
    for make in (
        lambda: Static(NumberFormat.INT4),
        lambda: Static(NumberFormat.FP8, symmetric=False),
        lambda: Trained(0),
        lambda: HighPrecision(0),
        lambda: HighPrecision(-1, NumberFormat.FP16),
        lambda: HighPrecision(1, NumberFormat.INT8),
        lambda: Cast(NumberFormat.INT8),
        lambda: WeightScheme(NumberFormat.FP16),
        lambda: WeightScheme(NumberFormat.FP8, symmetric=False),
        lambda: Head(WeightScheme(NumberFormat.BF16)),
    ):
        with pytest.raises(BadInput, match=r"use |leave it out"):
            make()


def test_every_technique_has_one_handler() -> None:
    assert set(quantizers._HANDLERS) == {type(item) for item in SMOOTHINGS}
    assert set(rounding._HANDLERS) == {type(item) for item in ROUNDINGS}
