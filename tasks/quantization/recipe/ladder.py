"""Which recipes to try, and in which order (ADR 4): the cheapest repair first."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.numerics.formats import NumberFormat, ScaleFormat
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.recipe.catalog import RECIPES, RESMOOTH, find_recipe
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import PerToken, Static, Trained
from tasks.quantization.recipe.targets import (
    TENSORRT,
    TENSORRT_RTX,
    Question,
    expressible,
    why_not,
)
from tasks.records import Action, GateResult
from tasks.specs.form import CHECKPOINT

Search = Literal["first", "full"]
"""Stop at the first candidate that passes.

Or measure every candidate and take the cheapest that passes.
"""

DRIFTING = ("resmooth-mixed-6",)
"""After rounding, which costs nothing in service (ADR 13)."""
RECALIBRATED = ("recalibrate", "recalibrate-mse")
IN_FP16 = ("int8-fp16", "int8-fp16-gptq", "int8-fp16-mixed-4")
"""INT8 with FP16 for the rest, where every target has it: float32 between INT8 products is slow."""
FROM_TRAFFIC = ("int8-smooth", "int8-gptq")
MIXED = ("int8-mixed-2", "int8-mixed-4", "int8-mixed-6", "int8-mixed-8")
BY_TOKEN = ("int8-per-token",)
"""Nothing in it drifts; dividing each token takes time that static ranges do not."""
TRAINED = ("int8-trained",)
SMALLER = ("int8-weights", "int4-mixed", "int4-gptq")
"""Weights alone: the smallest engines, each smaller and less faithful than the one before."""
SHORTER_FLOATS = (*SMALLER, "fp8", "fp16-whole", "fp16")
"""Activations in floating point, or all of it: where no INT8 placement is good enough."""
OF_CHECKPOINTS = (
    "int8-smooth",
    "int8-gptq",
    "int8-per-token",
    "int8-per-token-gptq",
    "fp8",
    "int8-weights",
    "int4-gptq",
)
"""Of models that stay checkpoints: what multiplies integers first, weights alone last."""
LATER = (*TRAINED, *SHORTER_FLOATS)
FALLBACK = "full-precision"

SLACK = 2.0
"""A predicted loss so many times over its budget is not worth an engine.

On Japanese, where one site does most of the harm, MiniLM lost half of what was predicted with two
sites kept high.
"""


@dataclass(frozen=True, slots=True)
class DeployedGraph:
    """What the ladder has to know of a quantized champion."""

    smoothed: bool  # whether any site has smoothing scales
    recipe: str | None  # what wrote it; None: of another version of the catalog
    whole: bool  # whether every site is quantized

    def is_made_whole_by(self, name: str) -> bool:
        """Return whether a recipe made it, and left no site in floating point."""
        return self.whole and self.recipe == name


def _renewals(deployed: DeployedGraph | None, search: Search) -> tuple[str, ...]:
    """Return what renews a champion's scales, and with them the smoothing where it has some.

    New scales alone, under smoothing that follows from other traffic, may lose more than the old
    ones and pass all the same: only a full search measures them there.
    """
    if deployed is None:
        return ()
    if not deployed.smoothed or deployed.recipe is None:
        return RECALIBRATED
    return (RESMOOTH, *RECALIBRATED) if search == "full" else (RESMOOTH,)


def climb(
    *,
    recipe: str | None,
    deployed: DeployedGraph | None,
    action: Action,
    sites: int,
    targets: Sequence[str],
    search: Search = "first",
    ask: Question = why_not,
    multiplies_rows: bool = True,
) -> Sequence[Recipe]:
    """Return the candidates in order.

    A named recipe is the only candidate; a safety fallback goes to full precision at once.

    A full-precision champion has no scales to renew. What a target cannot express, mixed
    candidates that would leave no site quantized, and what would be the first candidate again are
    left out; so is a range for each token where no site `multiplies_rows`. Full precision is the
    last candidate.
    """
    if recipe is not None:
        return (find_recipe(recipe),)
    if action is Action.FALLBACK:
        return (RECIPES[FALLBACK],)
    start = _renewals(deployed, search)
    drifting = DRIFTING if RESMOOTH in start else ()
    way_up = tuple(
        name
        for name in (*IN_FP16, *FROM_TRAFFIC, *drifting, *MIXED, *BY_TOKEN, *LATER)
        if RESMOOTH not in start or deployed is None or not deployed.is_made_whole_by(name)
    )
    names = (*start, *(_only_in_full(way_up, targets) if search == "full" else ()), *way_up)
    able = expressible([RECIPES[name] for name in names], targets, ask)
    candidates = (
        candidate
        for candidate in able
        if candidate.floating_sites < sites
        and (multiplies_rows or not isinstance(candidate.activation, PerToken))
    )
    return (*candidates, RECIPES[FALLBACK])


def climb_checkpoint(
    *,
    recipe: str | None,
    made_by: str | None,
    action: Action,
    search: Search = "first",
) -> Sequence[Recipe]:
    """Return the candidates of a model that stays a checkpoint, in order.

    A champion's recipe comes first: derived anew it renews scales and smoothing together, from one
    observation. Full precision, as it is stored, is the last candidate.

    Args:
        recipe: The only candidate, where a person named one.
        made_by: The champion's recipe; None where there is no champion.
        action: A safety fallback goes to full precision at once.
        search: Also try what is seldom good enough, but for another cache: not every server has it.
    """
    if recipe is not None:
        return (find_recipe(recipe),)
    if action is Action.FALLBACK:
        return (RECIPES[FALLBACK],)
    by_name = [name for name, item in RECIPES.items() if item.kv_cache is NumberFormat.FP32]
    more = by_name if search == "full" else ()
    names = dict.fromkeys((*([made_by] if made_by else ()), *OF_CHECKPOINTS, *more))
    held = (item for item in map(find_recipe, names) if why_not(item, CHECKPOINT) is None)
    return (*(item for item in held if item.quantized), RECIPES[FALLBACK])


def _only_in_full(way_up: Sequence[str], targets: Sequence[str]) -> Iterator[str]:
    """Yield everything else.

    Each may be cheaper than a candidate that passes, and seldom is good enough. Floats in blocks
    are cheaper only where a builder of NVIDIA's takes them: ONNX Runtime stores 4 of their bits in
    8, and rounds activations by a dozen operators.

    A recipe that changes how the engine is called, as an INT8 cache does, is only ever asked for by
    name.
    """
    built_by_nvidia = any(target in (TENSORRT, TENSORRT_RTX) for target in targets)
    for name, recipe in RECIPES.items():
        if (
            name not in way_up
            and (built_by_nvidia or not in_float_blocks(recipe))
            and recipe.quantized
            and not recipe.starts_from_champion
            and recipe.kv_cache is NumberFormat.FP32
        ):
            yield name


def in_float_blocks(recipe: Recipe) -> bool:
    """Return whether weights are NVFP4's or an MX format's."""
    weights = recipe.weights
    return isinstance(weights, WeightScheme) and weights.scales is not ScaleFormat.FP32


def chooses_sites(recipe: Recipe) -> bool:
    """Return whether the recipe treats the most sensitive sites differently.

    And so has to know which these are.
    """
    return (
        recipe.floating_sites > 0
        or isinstance(recipe.rounding, Trained)
        or recipe.raised is not None
    )


def may_cost_less(recipe: Recipe, dear: Recipe, refused: Collection[str]) -> bool:
    """Return whether a recipe may cost less than one that was good enough and too dear.

    Only weights of fewer bits take less room. What multiplies the same numbers takes the same time,
    however its scales and roundings were found. Full precision is never the cheaper one: no budget
    judges it, so that it would pass where better candidates were refused.

    Args:
        recipe: The one to be tried.
        dear: The one that was refused for its costs alone.
        refused: Metrics of the gates that refused it.
    """
    if recipe.name == FALLBACK:
        return False
    if {"size-ratio", "fp16-size-ratio"} & set(refused):
        return recipe.name in SMALLER
    return _multiplies(recipe) != _multiplies(dear)


def _multiplies(recipe: Recipe) -> tuple[object, ...]:
    """Return what decides the kernels of a graph: formats, and which sites have them."""
    activation, weights = recipe.activation, recipe.weights
    form = (activation.format, activation.symmetric) if isinstance(activation, Static) else None
    sites = (recipe.starts_from_champion, recipe.high_precision, recipe.head)
    return (recipe.quantized, type(activation), form, weights, recipe.tables, *sites)


def is_hopeless(refusals: Sequence[GateResult], left: float) -> bool:
    """Return whether a candidate is predicted to be refused as the one before it was.

    It leaves the fraction `left` of the losses of that one.

    Losses add up nearly (`mixed`), so that 1 - cosine shrinks by the share. SLACK keeps doubtful
    candidates: those are measured. A metric that is no loss predicts nothing.
    """
    return any(
        (1 - gate.estimate.value) * left > (1 - gate.budget) * SLACK
        for gate in refusals
        if gate.metric == "cosine" and gate.estimate is not None
    )
