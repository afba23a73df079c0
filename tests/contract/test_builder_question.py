"""Whether a recipe's formats build is asked of the real builder, for the device that is set."""

from __future__ import annotations

import numpy as np
import pytest

from infra.errors import Refused
from infra.settings import Settings, settings
from tasks.graphs.sites import find_sites
from tasks.quantization.pipeline import probe
from tasks.quantization.pipeline.probe import builder_question
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.ladder import climb
from tasks.quantization.recipe.targets import ONNXRUNTIME, TENSORRT_RTX, require_expressible
from tasks.records import Action
from tests import graphs

pytest.importorskip("tensorrt_rtx")
PRODUCTS = find_sites(graphs.product(np.ones((8, 6), np.float32)))
CONVOLUTIONS = find_sites(graphs.convolutions())


def for_device(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setenv("REQUANT_TENSORRT_RTX_CAPABILITY", capability)
    settings.cache_clear()


@pytest.mark.parametrize(
    ("capability", "recipe", "builds"),
    [
        ("SM89", "fp8", True),
        ("SM86", "fp8", False),
        ("SM75", "int8-smooth", False),  # its products of INT8 leave float32 there
        ("SM75", "int8-fp16", True),
        ("SM75", "int4-gptq", False),
        ("SM80", "int4-gptq", True),
        ("SM89", "nvfp4", False),
        ("SM120", "nvfp4", True),
        ("SM89", "mxfp8", True),
        ("SM89", "mxfp4-weights", False),
    ],
)
def test_what_builds_for_a_device_is_what_its_builder_builds(
    workspace: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    recipe: str,
    builds: bool,
) -> None:
    for_device(monkeypatch, capability)
    words = builder_question(PRODUCTS)(RECIPES[recipe], TENSORRT_RTX)
    assert (words is None) == builds
    if words is not None:
        assert f"for {capability}: tensorrt-rtx could not build the engine" in words


def test_the_layers_of_the_model_are_asked_for(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_device(monkeypatch, "SM75")
    assert builder_question(CONVOLUTIONS)(RECIPES["int8-smooth"], TENSORRT_RTX) is None


def test_the_ladder_for_a_device_leaves_out_what_does_not_build_for_it(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_device(monkeypatch, "SM75")
    ladder = climb(
        recipe=None,
        deployed=None,
        action=Action.RECALIBRATE,
        sites=24,
        targets=[TENSORRT_RTX],
        ask=builder_question(PRODUCTS),
    )
    names = {recipe.name for recipe in ladder}
    assert {"int8-fp16", "fp16-whole"} <= names
    assert not {"int8-smooth", "fp8", "int4-gptq"} & names


def test_a_named_recipe_is_refused_in_the_builders_words_before_anything_is_sampled(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_device(monkeypatch, "SM86")
    with pytest.raises(Refused, match=r"recipe fp8: .*for SM86.*set the spec's targets to onnx"):
        require_expressible(RECIPES["fp8"], (ONNXRUNTIME, TENSORRT_RTX), builder_question(PRODUCTS))


def test_recipes_of_the_same_formats_ask_once(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe._asked_once.cache_clear()
    ask = builder_question(PRODUCTS)
    for name in ("int8-max", "int8-smooth", "int8-gptq", "int8-mixed-4"):
        assert ask(RECIPES[name], TENSORRT_RTX) is None
    assert probe._asked_once.cache_info().misses == 1
