"""What a recipe asks of every linear layer of a checkpoint, and which recipes can be written so."""

from __future__ import annotations

from dataclasses import dataclass, replace

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat, PerBlock
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.checkpoints import why_not_in_checkpoint
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import (
    FP8_HEADROOM,
    Awq,
    Gptq,
    PerToken,
    Raised,
    Searched,
    Static,
)

FP8_CACHE = Static(NumberFormat.FP8, headroom=FP8_HEADROOM)
"""Keys and values in FP8: the range rule of FP8 activations."""
BLOCKS = (128, 64, 32)
"""Of a mean of bits: the largest is taken that divides a layer's inputs, up to the recipe's own."""


@dataclass(frozen=True, slots=True)
class LayerScheme:
    """How every linear layer is quantized."""

    recipe: str
    weights: WeightScheme
    activation: Static | PerToken | None
    smooths: bool
    compensates: bool  # by GPTQ
    protects: bool = False  # weights that meet large activations, by AWQ
    cache: Static | None = None  # of keys and values
    raised: Raised | None = None

    @property
    def learns(self) -> bool:
        """Whether it needs a calibration set."""
        static = isinstance(self.activation, Static) or self.cache is not None
        return self.folds or self.compensates or static

    @property
    def folds(self) -> bool:
        """Whether what is before a site takes scales of its channels."""
        return self.smooths or self.protects

    @property
    def bits(self) -> float:
        """Bits of a weight: the mean that is asked for, or without scales."""
        return self.raised.bits if self.raised else self.weights.format.bits

    def weights_of(self, inputs: int, *, raised: bool = False) -> WeightScheme:
        """Return how a linear layer's weights are stored.

        Args:
            inputs: Of the layer.
            raised: Whether it is one of those that have more bits.
        """
        if self.raised is None or not isinstance(self.weights.granularity, PerBlock):
            return self.weights
        if raised:
            return self.raised.weights
        most = self.weights.granularity.size
        able = (size for size in BLOCKS if size <= most and inputs % size == 0)
        return replace(self.weights, granularity=PerBlock(next(able, most)))

    def activation_of(self, routed: bool) -> Static | PerToken | None:
        """Return how a linear layer's activations are quantized.

        No kernel for routed experts has static ranges. Of INT8 ones transformers reads the weights
        alone, so that they have no range at all; FP8 has one a token, as in vLLM.

        Args:
            routed: Whether the layer is a routed expert's.
        """
        if not routed or self.activation is None:
            return self.activation
        return PerToken() if self.weights.format is NumberFormat.FP8 else None


def expressible() -> tuple[str, ...]:
    """Return the names of the recipes that can be written."""
    return tuple(
        name
        for name, recipe in RECIPES.items()
        if recipe.quantized and not why_not_in_checkpoint(recipe)
    )


def scheme_of(recipe: Recipe) -> LayerScheme:
    """Return what a recipe asks for; its embedding tables and head stay as they are stored.

    Raises:
        BadInput: It asks for what a compressed-tensors checkpoint, or this path, does not have.
    """
    reason = why_not_in_checkpoint(recipe)
    if reason or not isinstance(recipe.weights, WeightScheme):
        raise BadInput(
            f"recipe {recipe.name} cannot be written layer by layer, which has no "
            f"{reason or 'full precision'}: use one of "
            f"{', '.join(expressible())}"
        )
    activation = recipe.activation
    return LayerScheme(
        recipe.name,
        recipe.weights,
        activation if isinstance(activation, Static | PerToken) else None,
        isinstance(recipe.smoothing, Searched),
        isinstance(recipe.rounding, Gptq),
        isinstance(recipe.rounding, Awq),
        FP8_CACHE if recipe.kv_cache is NumberFormat.FP8 else None,
        recipe.raised,
    )
