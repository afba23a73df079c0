"""What a compressed-tensors checkpoint can say, and this package writes into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks.numerics.formats import NumberFormat, PerTensor
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import Awq, Gptq, Nearest, PerToken, Searched, Static

_FORMATS = (NumberFormat.INT8, NumberFormat.INT4, NumberFormat.FP8)
_RULES: Sequence[tuple[Callable[[Recipe], bool], str]] = (
    (
        lambda r: r.starts_from_champion,
        "renewing a champion's graph: its recipe is derived anew, scales and smoothing together",
    ),
    (lambda r: not isinstance(r.weights, WeightScheme), "shorter floats: it is stored in some"),
    (
        lambda r: isinstance(r.weights, WeightScheme) and r.weights.format not in _FORMATS,
        f"weights in other than {', '.join(item.value.upper() for item in _FORMATS)}",
    ),
    (
        lambda r: isinstance(r.weights, WeightScheme) and not r.weights.symmetric,
        "asymmetric weights",
    ),
    (
        lambda r: (
            isinstance(r.weights, WeightScheme) and isinstance(r.weights.granularity, PerTensor)
        ),
        "one scale for a whole weight",
    ),
    (
        lambda r: not (r.activation is None or isinstance(r.activation, PerToken | Static)),
        "such ranges of activations",
    ),
    (
        lambda r: isinstance(r.activation, Static) and not r.activation.symmetric,
        "asymmetric activations",
    ),
    (
        lambda r: not (r.smoothing is None or isinstance(r.smoothing, Searched)),
        "scales of smoothing that are not searched",
    ),
    (lambda r: not isinstance(r.rounding, Nearest | Gptq | Awq), "trained rounding"),
    (lambda r: r.high_precision is not None, "a choice of sites for floating point"),
    (
        lambda r: r.kv_cache is NumberFormat.INT8,
        "keys and values cached in INT8: vLLM reads scales of FP8 alone",
    ),
    (lambda r: r.bias_correction, "corrected biases"),
    (lambda r: r.int8_products, "INT8 products of INT4 weights"),
    (lambda r: r.head is not None and r.head.at_ends, "layers at both ends in another format"),
)
"""Each asks whether a recipe breaks it, and says what cannot be expressed."""


def why_not_in_checkpoint(recipe: Recipe) -> str | None:
    """Return what of a recipe a checkpoint does not hold; None where it holds all.

    Full precision is held as it is stored.
    """
    if not recipe.quantized:
        return None
    return next((words for breaks, words in _RULES if breaks(recipe)), None)
