"""Which sites of a 4-bit recipe are stored in 8 bits, and what GPTQ learns from more rows."""

import numpy as np

from tasks.graphs.sites import Layer, Site
from tasks.numerics.formats import NumberFormat, PerBlock
from tasks.numerics.quantized_weight import WeightScheme
from tasks.observation.observer import MANY_ROWS, ROWS, Observer
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.submodules import schemes_by_site
from tests.unit.tasks.quantization.weight.rounded import gptq


def sites(*names: str) -> tuple[Site, ...]:
    return tuple(Site(name, name, -1, (Layer(name, name, "MatMul", name, 1),)) for name in names)


INT4 = WeightScheme(NumberFormat.INT4, PerBlock(32), clipped=True)
DECODER = sites("layers.0.mlp.up_proj", "layers.1.mlp.up_proj", "layers.2.mlp.up_proj", "lm_head")


def eight_bits(recipe: str, found: tuple[Site, ...]) -> list[str]:
    return [
        name
        for name, scheme in schemes_by_site(RECIPES[recipe], found).items()
        if scheme.format is NumberFormat.INT8
    ]


def test_a_four_bit_recipe_keeps_the_head_in_eight_bits() -> None:
    assert eight_bits("int4-gptq", DECODER) == ["lm_head"]


def test_the_mixed_one_keeps_the_first_and_the_last_block_too() -> None:
    assert eight_bits("int4-mixed", DECODER) == [
        "layers.0.mlp.up_proj",
        "layers.2.mlp.up_proj",
        "lm_head",
    ]


def test_two_blocks_have_nothing_between_their_ends() -> None:
    assert eight_bits("int4-mixed", (*DECODER[:2], DECODER[3])) == ["lm_head"]


def test_a_network_without_a_head_and_a_layer_alone_keep_four_bits() -> None:
    assert eight_bits("int4-gptq", DECODER[:3]) == []
    assert eight_bits("int4-gptq", DECODER[3:]) == []


def test_only_few_bits_learn_from_many_rows() -> None:
    assert {name for name, item in RECIPES.items() if item.learns_from_many} == {
        "int4-gptq",
        "int4-gptq-a8",
        "int4-4.5-bits",
        "int4-6-bits",
        "int4-mixed",
        "int2-gptq",
        "nvfp4",
        "nvfp4-fp16",
        "nvfp4-weights",
        "mxfp4-weights",
    }


def test_many_rows_hold_the_few_and_gptq_serves_unseen_ones_better() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((60, 256)) * rng.lognormal(0, 0.7, 256)
    seen = (rng.standard_normal((1200, 60)) @ mixing + rng.standard_normal((1200, 256))).astype(
        np.float32
    )
    learnt, unseen = seen[:1000].reshape(10, 100, 256), seen[1000:]
    weight = rng.standard_normal((32, 256)).astype(np.float32)
    lost = {}
    rows = {}
    for kept in (ROWS, MANY_ROWS):
        observer = Observer(sites("fc"), rows=kept)
        observer.update({"fc": learnt}, np.arange(10))
        rows[kept] = observer.result()["fc"].rows
        found = gptq(weight, rows[kept], INT4).dequantized()
        lost[kept] = float(np.square(unseen @ (weight - found).T).sum())
    assert len(rows[MANY_ROWS]) == 1000
    assert {row.tobytes() for row in rows[ROWS]} < {row.tobytes() for row in rows[MANY_ROWS]}
    assert lost[MANY_ROWS] < 0.9 * lost[ROWS]
