"""What each target can express on any device: one table, held against real parser and runtime.

What depends on the device is asked of the builder (`tasks.quantization.pipeline.probe`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from infra.errors import Refused
from tasks.numerics.formats import NumberFormat, PerBlock
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.recipe.checkpoints import why_not_in_checkpoint
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import Dynamic, PerBlockOfToken, Static
from tasks.specs.form import CHECKPOINT

ONNXRUNTIME, ONNXRUNTIME_CUDA = "onnxruntime-cpu", "onnxruntime-cuda"
TENSORRT_RTX, TENSORRT = "tensorrt-rtx", "tensorrt"
TARGETS = (ONNXRUNTIME, ONNXRUNTIME_CUDA, TENSORRT_RTX, TENSORRT)
"""Of graphs. In `onnxruntime-cuda` nothing is refused by name: it is asked, and watched."""
EVERY_TARGET = (*TARGETS, CHECKPOINT)


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that a recipe may ask of a target."""

    name: str
    asked_by: Callable[[Recipe], bool]
    refused: Mapping[str, str]  # target -> the rule of the target that it breaks


_ONNXRUNTIME_REST = "its CPU provider widens FP16 to float32 again, and INT8 products with it"
_NVIDIA_ZERO_POINT = "its parser takes no zero-point but 0 (shiftIsAllZeros)"
_NVIDIA_DYNAMIC = "it has no DynamicQuantizeLinear: ranges are fixed when the engine is built"
_NO_FP8_JOINED = "ONNX's Concat, which joins past and new values, takes no FP8; INT8 is as small"
_NVIDIA_INT2 = "its parser knows no 2-bit type"

FEATURES: Sequence[Feature] = (
    Feature("static INT8", lambda r: _static(r, NumberFormat.INT8), {}),
    Feature(
        "dynamic activations",
        lambda r: isinstance(r.activation, Dynamic),
        {TENSORRT_RTX: _NVIDIA_DYNAMIC, TENSORRT: _NVIDIA_DYNAMIC},
    ),
    Feature(
        "asymmetric activations",
        lambda r: isinstance(r.activation, Static) and not r.activation.symmetric,
        {TENSORRT_RTX: _NVIDIA_ZERO_POINT, TENSORRT: _NVIDIA_ZERO_POINT},
    ),
    Feature(
        "asymmetric weights",
        lambda r: isinstance(r.weights, WeightScheme) and not r.weights.symmetric,
        {TENSORRT_RTX: _NVIDIA_ZERO_POINT, TENSORRT: _NVIDIA_ZERO_POINT},
    ),
    Feature("FP8", lambda r: _static(r, NumberFormat.FP8), {}),
    Feature("NVFP4", lambda r: _in_blocks(r, NumberFormat.FP4), {}),
    Feature("MXFP8", lambda r: _in_blocks(r, NumberFormat.FP8), {}),
    Feature("weight-only INT8", lambda r: _weight_only(r, NumberFormat.INT8), {}),
    Feature("weight-only INT4", lambda r: _weight_only(r, NumberFormat.INT4), {}),
    Feature("weight-only FP4", lambda r: _weight_only(r, NumberFormat.FP4), {}),
    Feature(
        "weight-only INT2",
        lambda r: _weight_only(r, NumberFormat.INT2),
        {TENSORRT_RTX: _NVIDIA_INT2, TENSORRT: _NVIDIA_INT2},
    ),
    Feature(
        "scales per block",
        lambda r: (
            isinstance(r.weights, WeightScheme) and isinstance(r.weights.granularity, PerBlock)
        ),
        {},
    ),
    Feature("FP16", lambda r: NumberFormat.FP16 in _floats(r), {}),
    Feature(
        "FP16 for the rest",
        lambda r: r.rest is NumberFormat.FP16,
        {ONNXRUNTIME: _ONNXRUNTIME_REST},
    ),
    Feature(
        "BF16",
        lambda r: NumberFormat.BF16 in _floats(r),
        {ONNXRUNTIME: "its CPU provider has no BF16 matrix product"},
    ),
    Feature("INT8 embedding tables", lambda r: r.tables is NumberFormat.INT8, {}),
    Feature("INT8 cache of keys and values", lambda r: r.kv_cache is NumberFormat.INT8, {}),
    Feature(
        "FP8 cache of keys and values",
        lambda r: r.kv_cache is NumberFormat.FP8,
        dict.fromkeys(TARGETS, _NO_FP8_JOINED),
    ),
)


def why_not(recipe: Recipe, target: str) -> str | None:
    """Return the rule of the target that the recipe breaks, or None where it can express it."""
    if target == CHECKPOINT:
        words = why_not_in_checkpoint(recipe)
        return words and f"{target} cannot express {words}"
    for feature in FEATURES:
        if target in feature.refused and feature.asked_by(recipe):
            return f"{target} cannot express {feature.name}: {feature.refused[target]}"
    return None


Question = Callable[[Recipe, str], str | None]
"""Of a recipe and a target: why they do not go together."""


def require_expressible(recipe: Recipe, targets: Sequence[str], ask: Question = why_not) -> None:
    """Raise `Refused` naming a target that cannot express the recipe, why, and what to do."""
    for target in targets:
        reason = ask(recipe, target)
        if reason is not None:
            able = [name for name in targets if ask(recipe, name) is None]
            hint = f"set the spec's targets to {', '.join(able)}, or " if able else ""
            raise Refused(
                f"recipe {recipe.name}: {reason}; {hint}choose another recipe "
                "(`requant recipes` lists them)"
            )


def expressible(
    recipes: Sequence[Recipe], targets: Sequence[str], ask: Question = why_not
) -> tuple[Recipe, ...]:
    """Return the recipes that every target can express."""
    return tuple(
        recipe for recipe in recipes if all(ask(recipe, target) is None for target in targets)
    )


def _static(recipe: Recipe, format: NumberFormat) -> bool:
    activation = recipe.activation
    return recipe.quantized and isinstance(activation, Static) and activation.format is format


def _in_blocks(recipe: Recipe, format: NumberFormat) -> bool:
    activation = recipe.activation
    return isinstance(activation, PerBlockOfToken) and activation.format is format


def _weight_only(recipe: Recipe, format: NumberFormat) -> bool:
    return recipe.quantized and recipe.activation is None and recipe.weights.format is format


def _floats(recipe: Recipe) -> set[NumberFormat]:
    high = {recipe.high_precision.format} if recipe.high_precision else set()
    return ({recipe.weights.format} if recipe.quantized else set()) | {recipe.tables} | high
