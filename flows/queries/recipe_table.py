"""Every recipe against every target."""

from dataclasses import dataclass

from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.targets import EVERY_TARGET, why_not


@dataclass(frozen=True, slots=True)
class RecipeView:
    """One recipe, and what keeps each target from expressing it."""

    name: str
    summary: str
    obstacles: dict[
        str, str | None
    ]  # target -> the rule that it breaks; None where it can be expressed


def recipes() -> list[RecipeView]:
    """Return every recipe, cheapest repair first, as `tasks.quantization.recipe.targets` has it."""
    return [
        RecipeView(
            name, recipe.summary, {target: why_not(recipe, target) for target in EVERY_TARGET}
        )
        for name, recipe in RECIPES.items()
    ]
