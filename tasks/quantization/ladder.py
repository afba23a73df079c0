"""Which recipes to try, and in which order (DESIGN.md, D4): the cheapest repair first."""

from collections.abc import Sequence

from tasks.quantization.recipes import RECIPES, Recipe, find_recipe
from tasks.records import Action

FROM_CHAMPION = ("recalibrate", "recalibrate-mse")
FROM_TRAFFIC = ("int8-smooth", "int8-mixed-2", "int8-mixed-4", "int8-mixed-6", "int8-mixed-8")
FALLBACK = "full-precision"


def climb(*, recipe: str | None, has_quantized_champion: bool, action: Action, sites: int) -> Sequence[Recipe]:
    """The rungs in order. A named recipe is the only rung; a safety fallback goes to full precision at once.

    A full-precision champion has no scales to recalibrate. Mixed rungs that would leave no site quantized are left
    out. Full precision is the last rung.
    """
    if recipe is not None:
        return (find_recipe(recipe),)
    if action is Action.FALLBACK:
        return (RECIPES[FALLBACK],)
    names = (*(FROM_CHAMPION if has_quantized_champion else ()), *FROM_TRAFFIC)
    rungs = [RECIPES[name] for name in names]
    return (*(rung for rung in rungs if rung.high_precision_sites < sites), RECIPES[FALLBACK])
