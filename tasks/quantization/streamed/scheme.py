"""What a recipe asks of every linear layer of a checkpoint, and which recipes can be written so."""

from __future__ import annotations

from dataclasses import dataclass

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat, PerTensor
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import Gptq, Nearest, PerToken, Searched, Static

_FORMATS = (NumberFormat.INT8, NumberFormat.INT4, NumberFormat.FP8)


@dataclass(frozen=True, slots=True)
class LayerScheme:
    """How every linear layer is quantized."""

    recipe: str
    weights: WeightScheme
    activation: Static | PerToken | None
    smooths: bool
    compensates: bool  # by GPTQ

    @property
    def learns(self) -> bool:
        """Whether it needs a calibration set."""
        return self.smooths or self.compensates or isinstance(self.activation, Static)


def expressible() -> tuple[str, ...]:
    """Return the names of the recipes that can be written."""
    return tuple(name for name, recipe in RECIPES.items() if _is_expressible(recipe))


def scheme_of(recipe: Recipe) -> LayerScheme:
    """Return what a recipe asks for; its embedding tables and head stay as they are stored.

    Raises:
        BadInput: It asks for what a compressed-tensors checkpoint, or this path, does not have.
    """
    if not _is_expressible(recipe) or not isinstance(recipe.weights, WeightScheme):
        raise BadInput(
            f"recipe {recipe.name} cannot be written layer by layer: use one of "
            f"{', '.join(expressible())}"
        )
    activation = recipe.activation
    return LayerScheme(
        recipe.name,
        recipe.weights,
        activation if isinstance(activation, Static | PerToken) else None,
        isinstance(recipe.smoothing, Searched),
        isinstance(recipe.rounding, Gptq),
    )


def _is_expressible(recipe: Recipe) -> bool:
    weights, activation = recipe.weights, recipe.activation
    return (
        recipe.quantized
        and isinstance(weights, WeightScheme)
        and weights.format in _FORMATS
        and weights.symmetric
        and not isinstance(weights.granularity, PerTensor)
        and (
            activation is None
            or isinstance(activation, PerToken)
            or (isinstance(activation, Static) and activation.symmetric)
        )
        and (recipe.smoothing is None or isinstance(recipe.smoothing, Searched))
        and isinstance(recipe.rounding, Nearest | Gptq)
        and recipe.high_precision is None
        and recipe.kv_cache is NumberFormat.FP32
        and not (recipe.bias_correction or recipe.int8_products or recipe.starts_from_champion)
        and not (recipe.head is not None and recipe.head.at_ends)
    )
