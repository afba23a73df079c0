"""Recipes: small frozen descriptions of how an observation becomes scales."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from infra.canonical import Json
from infra.errors import BadInput
from tasks.quantization.ranges import RangeRule


class Smoothing(StrEnum):
    """Where the per-channel factors come from."""

    NONE = "none"
    DEPLOYED = "deployed"  # the champion's
    SEARCHED = "searched"  # alpha per site, by output error on the calibration set


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize; weights are INT8, symmetric, per-channel wherever a site is quantized."""

    name: str
    summary: str  # one sentence, shown to people
    smoothing: Smoothing = Smoothing.SEARCHED
    rule: RangeRule = RangeRule.MAX
    high_precision_sites: int = 0  # the most sensitive sites stay in floating point
    quantized: bool = True
    version: int = 1

    def document(self) -> Mapping[str, Json]:
        """As it is written into a release's manifest."""
        return asdict(self)


def _mixed(count: int) -> Recipe:
    return Recipe(
        f"int8-mixed-{count}",
        f"SmoothQuant tuned on the new traffic; the {count} most sensitive sites stay in floating point",
        high_precision_sites=count,
    )


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("recalibrate", "the champion's graph with scales from the new traffic", Smoothing.DEPLOYED),
        Recipe("recalibrate-mse", "the same with the clip of least squared error", Smoothing.DEPLOYED, RangeRule.MSE),
        Recipe("int8-max", "INT8, largest magnitude, no smoothing", Smoothing.NONE),
        Recipe("int8-percentile", "INT8, 99.99th percentile, no smoothing", Smoothing.NONE, RangeRule.PERCENTILE),
        Recipe("int8-mse", "INT8, clip of least squared error, no smoothing", Smoothing.NONE, RangeRule.MSE),
        Recipe("int8-entropy", "INT8, clip of least divergence, no smoothing", Smoothing.NONE, RangeRule.ENTROPY),
        Recipe("int8-smooth", "INT8, SmoothQuant with alpha tuned per site on the new traffic"),
        *(_mixed(count) for count in (1, 2, 3, 4, 6, 8)),
        Recipe("full-precision", "no quantization: the fallback when quality or safety cannot wait", quantized=False),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; raises `BadInput` naming the known ones."""
    if name not in RECIPES:
        raise BadInput(f"no recipe is called {name!r}: allowed are {', '.join(RECIPES)}")
    return RECIPES[name]
