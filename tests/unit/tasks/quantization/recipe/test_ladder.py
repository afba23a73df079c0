"""Which recipes there are, and in which order they are tried."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from infra.errors import BadInput
from tasks.quantization.recipe.catalog import RECIPES, find_recipe
from tasks.quantization.recipe.ladder import (
    DeployedGraph,
    Search,
    climb,
    in_float_blocks,
    is_hopeless,
    may_cost_less,
)
from tasks.quantization.recipe.schemes import DeployedSmoothing, Gptq
from tasks.quantization.recipe.targets import ONNXRUNTIME, TARGETS, TENSORRT_RTX, why_not
from tasks.records import Action, GateResult, Interval, Verdict

PLAIN = DeployedGraph(smoothed=False, recipe="int8-max", whole=True)


def names(
    *,
    recipe: str | None = None,
    champion: bool = True,
    deployed: DeployedGraph = PLAIN,
    action: Action = Action.RECALIBRATE,
    sites: int = 24,
    targets: Sequence[str] = (ONNXRUNTIME, TENSORRT_RTX),
    search: Search = "first",
) -> list[str]:
    candidates = climb(
        recipe=recipe,
        deployed=deployed if champion else None,
        action=action,
        sites=sites,
        targets=targets,
        search=search,
    )
    return [candidate.name for candidate in candidates]


def test_the_cheapest_repair_comes_first_and_full_precision_last() -> None:
    found = names()
    assert found[:4] == ["recalibrate", "recalibrate-mse", "int8-smooth", "int8-gptq"]
    assert found[-1] == "full-precision"


def test_a_smoothed_champion_gets_new_smoothing_and_never_new_scales_alone() -> None:
    smoothed = DeployedGraph(smoothed=True, recipe="int8-mixed-4", whole=False)
    found = names(deployed=smoothed)
    assert found[:4] == ["resmooth", "int8-smooth", "int8-gptq", "resmooth-mixed-6"], "ADR 13"
    assert "recalibrate" not in names(deployed=smoothed)
    full = names(deployed=smoothed, search="full")
    assert full[:3] == ["resmooth", "recalibrate", "recalibrate-mse"], "measured beside the others"
    unknown = DeployedGraph(smoothed=True, recipe=None, whole=True)
    assert names(deployed=unknown)[0] == "recalibrate", "nobody knows what to renew it by"


def test_new_smoothing_is_not_tried_twice_under_two_names() -> None:
    smoothed = DeployedGraph(smoothed=True, recipe="int8-smooth", whole=True)
    assert "int8-smooth" not in names(deployed=smoothed)
    some_high = DeployedGraph(smoothed=True, recipe="int8-smooth", whole=False)
    assert "int8-smooth" in names(deployed=some_high)


def test_each_further_candidate_keeps_more_in_high_precision() -> None:
    found = names()
    kept = [
        RECIPES[name].high_precision_sites
        for name in found[found.index("int8-gptq") : found.index("int8-per-token")]
    ]
    assert kept == sorted(set(kept))


def test_what_costs_nothing_in_service_is_tried_before_anything_is_left_in_floating_point() -> None:
    found = [RECIPES[name] for name in names()]
    first = next(place for place, one in enumerate(found) if one.high_precision_sites)
    assert found[first].rounding == found[first - 1].rounding == Gptq()
    assert not found[first - 1].high_precision_sites


def test_int8_with_fp16_comes_first_where_every_target_has_it() -> None:
    alone = names(champion=False, targets=[TENSORRT_RTX])
    assert alone[:4] == ["int8-fp16", "int8-fp16-gptq", "int8-fp16-mixed-4", "int8-smooth"]
    assert alone.index("fp16-whole") < alone.index("full-precision")
    assert not {"int8-fp16", "fp16-whole"} & set(names())


def test_nothing_starts_from_a_champion_that_does_not_exist() -> None:
    found = names(champion=False)
    assert all(RECIPES[name].smoothing != DeployedSmoothing() for name in found)
    assert found[0] == "int8-smooth"


def test_mixed_candidates_that_would_leave_nothing_quantized_are_left_out() -> None:
    floats = [
        "int8-per-token",
        "int8-trained",
        "int8-weights",
        "int4-mixed",
        "int4-gptq",
        "fp8",
        "fp16",
        "full-precision",
    ]
    assert names(champion=False, sites=4) == ["int8-smooth", "int8-gptq", "int8-mixed-2", *floats]
    assert names(champion=False, sites=1) == ["int8-smooth", "int8-gptq", *floats]


def test_a_full_search_measures_every_candidate_of_the_way_up_and_more() -> None:
    more = names(search="full")
    assert set(names()) < set(more)
    assert len(set(more)) == len(more)
    assert more[-1] == "full-precision"


@pytest.mark.parametrize("target", TARGETS)
def test_a_full_search_leaves_out_only_what_a_target_has_no_use_for_and_the_int8_cache(
    target: str,
) -> None:
    able = {name for name, recipe in RECIPES.items() if why_not(recipe, target) is None}
    smoothed = DeployedGraph(smoothed=True, recipe="int8-kv", whole=True)
    full = names(targets=[target], search="full", deployed=smoothed)
    useless = {name for name in able if in_float_blocks(RECIPES[name])}
    assert useless
    assert able - set(full) == {"int8-kv"} | (useless if "onnxruntime" in target else set())


@pytest.mark.parametrize("search", ["first", "full"])
@pytest.mark.parametrize("target", TARGETS)
def test_no_candidate_asks_for_what_a_target_cannot_express(search: Search, target: str) -> None:
    assert all(
        why_not(RECIPES[name], target) is None for name in names(targets=[target], search=search)
    )


def cheaper_than(dear: str, *refused: str) -> list[str]:
    return [
        name for name in names() if may_cost_less(find_recipe(name), find_recipe(dear), refused)
    ]


def test_behind_a_candidate_that_was_too_slow_come_only_other_kernels() -> None:
    left = cheaper_than("int8-smooth", "latency-ratio")
    assert "fp16" in left  # NVIDIA's INT8 engine of a small model is often slower than FP16
    assert {"int8-mixed-2", "int8-weights", "int4-gptq", "fp8"} <= set(left)
    assert not {"int8-smooth", "int8-gptq", "int8-trained", "full-precision"} & set(left)


@pytest.mark.parametrize("refused", [("size-ratio",), ("latency-ratio", "size-ratio")])
def test_behind_one_that_was_too_large_come_only_fewer_bits(refused: tuple[str, ...]) -> None:
    assert cheaper_than("int8-smooth", *refused) == ["int8-weights", "int4-mixed", "int4-gptq"]


def test_a_champions_graph_that_was_too_slow_says_nothing_about_a_new_one() -> None:
    assert may_cost_less(find_recipe("int8-smooth"), find_recipe("recalibrate"), ["latency-ratio"])


@pytest.mark.parametrize("action", [Action.RECALIBRATE, Action.FALLBACK])
def test_a_named_recipe_is_the_only_candidate(action: Action) -> None:
    assert names(recipe="int8-mse", action=action) == ["int8-mse"]


def test_a_safety_fallback_goes_to_full_precision_at_once() -> None:
    assert names(action=Action.FALLBACK) == ["full-precision"]


def test_an_unknown_recipe_is_bad_input_that_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"allowed are resmooth, .*recalibrate, .*full-precision"):
        names(recipe="int4")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_found_by_its_own_name_and_documents_itself(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    assert recipe.summary
    assert json.loads(json.dumps(recipe.document()))["version"] == recipe.version


def test_only_the_fallback_does_not_quantize() -> None:
    assert [name for name, recipe in RECIPES.items() if not recipe.quantized] == ["full-precision"]


def refusal(metric: str, value: float, budget: float) -> GateResult:
    estimate = Interval(value, value, value)
    return GateResult(
        metric, "all", True, Verdict.FAILED, estimate, budget, "at least", 20, "because"
    )


def test_a_candidate_whose_predicted_loss_is_far_over_the_budget_is_not_worth_an_engine() -> None:
    refusals = [refusal("cosine", 0.97, 0.99)]  # loses 0.03, and may lose 0.01
    assert is_hopeless(refusals, left=0.7)
    assert not is_hopeless(refusals, left=0.6)  # 0.018: close enough to be measured
    assert not is_hopeless(refusals, left=0.3)


def test_what_is_no_loss_predicts_nothing() -> None:
    assert not is_hopeless([refusal("safety-flips", 12, 3)], left=1.0)
    assert not is_hopeless([], left=1.0)
