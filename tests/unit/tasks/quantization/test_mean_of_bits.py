"""INT4 by a mean of bits a weight: the layers that lose most have INT8 for it."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from infra.errors import BadInput
from tasks.graphs.sites import Layer, Site
from tasks.numerics.formats import PerBlock
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.pipeline.placement import raised_sites
from tasks.quantization.recipe.catalog import RECIPES, find_recipe
from tasks.quantization.recipe.ladder import chooses_sites, climb
from tasks.quantization.sensitivity.measure import Sensitivity
from tasks.records import Action

INPUTS = 256
OUTPUTS = {"layers.0.fc": 64, "layers.1.fc": 64, "layers.2.fc": 128, "lm_head": 512}
SITES = tuple(Site(name, name, -1, (Layer(name, name, "MatMul", name, 1),)) for name in OUTPUTS)
RANKING = tuple(
    Sensitivity(name, error, 0.25) for name, error in zip(OUTPUTS, (3, 2, 1, 9), strict=True)
)


def model() -> onnx.ModelProto:
    weights = [
        numpy_helper.from_array(np.zeros((INPUTS, outputs), np.float32), name)
        for name, outputs in OUTPUTS.items()
    ]
    return onnx.helper.make_model(onnx.helper.make_graph([], "weights", [], [], weights))


def mean_bits(raised: tuple[str, ...], block: int) -> float:
    """Count what the layers but the head take, with scales of 32 bits."""
    total = 0.0
    counted = {name: outputs for name, outputs in OUTPUTS.items() if name != "lm_head"}
    for name, outputs in counted.items():
        per_weight = 8 + 32 / INPUTS if name in raised else 4 + 32 / block
        total += per_weight * outputs
    return total / sum(counted.values())


@pytest.mark.parametrize(
    ("bits", "raised"),
    [
        (4.5, ()),
        (5.2, ()),
        (5.8, ("layers.1.fc",)),
        (6.6, ("layers.0.fc", "layers.1.fc")),
        (7.9, ("layers.0.fc", "layers.1.fc")),
    ],
)
def test_the_mean_is_kept_and_spent_where_the_output_loses_most(
    bits: float, raised: tuple[str, ...]
) -> None:
    losses = {"layers.0.fc": 0.01, "layers.1.fc": 0.04, "layers.2.fc": 0.001, "lm_head": 1.0}
    recipe = find_recipe(f"int4-{bits:g}-bits")
    found = raised_sites(model(), SITES, RANKING, losses, recipe)
    assert found == raised
    assert isinstance(recipe.weights, WeightScheme)
    assert isinstance(recipe.weights.granularity, PerBlock)
    assert mean_bits(found, recipe.weights.granularity.size) <= bits


def test_without_measured_losses_local_errors_decide() -> None:
    assert raised_sites(model(), SITES, RANKING, None, find_recipe("int4-5.8-bits")) == (
        "layers.0.fc",
    )


def test_other_recipes_raise_nothing() -> None:
    assert raised_sites(model(), SITES, RANKING, None, find_recipe("int4-gptq")) == ()


def test_any_mean_can_be_asked_for_and_is_part_of_what_the_release_says() -> None:
    recipe = find_recipe("int4-5.25-bits")
    assert recipe.document()["bits"] == 5.25
    assert chooses_sites(recipe)
    assert recipe.learns_from_many
    assert climb(
        recipe="int4-5.25-bits",
        deployed=None,
        action=Action.RECALIBRATE,
        sites=4,
        targets=["onnxruntime-cpu"],
    ) == (recipe,)


@pytest.mark.parametrize("name", ["int4-4-bits", "int4-4.25-bits", "int4-8-bits", "int4-9-bits"])
def test_a_mean_that_no_mixture_has_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=r"more than 4\.25 bits .* fewer than 8"):
        find_recipe(name)


def test_a_full_search_tries_two() -> None:
    names = {
        item.name
        for item in climb(
            recipe=None,
            deployed=None,
            action=Action.RECALIBRATE,
            sites=40,
            targets=["onnxruntime-cpu"],
            search="full",
        )
    }
    assert {"int4-4.5-bits", "int4-6-bits"} <= names & RECIPES.keys()
