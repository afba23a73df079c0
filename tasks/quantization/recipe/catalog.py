"""The recipes that Requant knows, by name."""

import re
from collections.abc import Mapping
from dataclasses import replace

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat, PerBlock, PerTensor, ScaleFormat
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import (
    FP8_HEADROOM,
    INT8_HEADROOM,
    Awq,
    Cast,
    DeployedSmoothing,
    Dynamic,
    Equalized,
    Gptq,
    Head,
    HighPrecision,
    Nearest,
    PerBlockOfToken,
    PerToken,
    Raised,
    RangeRule,
    Rounding,
    Searched,
    Static,
    Trained,
)

_REST_IN_FP16 = HighPrecision(0, NumberFormat.FP16)
_MSE, _PERCENTILE, _ENTROPY = (
    Static(rule=rule) for rule in (RangeRule.MSE, RangeRule.PERCENTILE, RangeRule.ENTROPY)
)
_SMOOTH, _GPTQ, _NEAREST, _INT8_WEIGHTS = Searched(), Gptq(), Nearest(), WeightScheme()


RESMOOTH = "resmooth"


def _mixed(count: int) -> Recipe:
    return Recipe(
        f"int8-mixed-{count}",
        f"int8-gptq with the {count} most sensitive sites in floating point",
        smoothing=_SMOOTH,
        rounding=_GPTQ,
        high_precision=HighPrecision(count),
    )


def _weight_only(
    name: str,
    summary: str,
    format: NumberFormat,
    block: int,
    rounding: Rounding = _NEAREST,
    *,
    head_at_ends: bool = False,
    int8_products: bool = False,
) -> Recipe:
    scheme = WeightScheme(format, PerBlock(block), clipped=True)
    head = Head(_INT8_WEIGHTS, head_at_ends)
    return Recipe(
        name,
        summary,
        scheme,
        None,
        rounding=rounding,
        tables=NumberFormat.INT8,
        head=head,
        int8_products=int8_products,
        version=5 if isinstance(rounding, Gptq) else 4,
    )


def _to_bits(bits: float) -> Recipe:
    """Return weights in INT4 and INT8, so many bits each on average; scales are FP32."""
    block = 128 if bits < _BITS_OF_BLOCKS_OF_32 else 32
    base = _weight_only(f"int4-{bits:g}-bits", "", NumberFormat.INT4, block, rounding=_GPTQ)
    return replace(
        base,
        summary=f"int4-gptq, {block} a scale; {bits:g} bits a weight: INT8 where most is lost",
        raised=Raised(bits, _INT8_WEIGHTS),
    )


_BITS_OF_BLOCKS_OF_32 = 4 + 32 / 32
_LEAST_BITS, _MOST_BITS = 4 + 32 / 128, 8
_BITS = re.compile(r"int4-(\d(?:\.\d{1,2})?)-bits")
_NVFP4 = WeightScheme(NumberFormat.FP4, PerBlock(16), clipped=True, scales=ScaleFormat.E4M3)
_MXFP8 = WeightScheme(NumberFormat.FP8, PerBlock(32), scales=ScaleFormat.E8M0)
_MXFP4 = WeightScheme(NumberFormat.FP4, PerBlock(32), clipped=True, scales=ScaleFormat.E8M0)

_ALL = (
    Recipe(
        RESMOOTH,
        "the champion's recipe and placement, smoothing and scales from the new traffic",
        smoothing=_SMOOTH,
        keeps_placement=True,
    ),
    Recipe(
        "resmooth-mixed-6",
        "resmooth with the 6 sites that drift most in floating point",
        smoothing=_SMOOTH,
        keeps_placement=True,
        drifting_sites=6,
    ),
    Recipe(
        "recalibrate",
        "the champion's graph with scales from the new traffic",
        smoothing=DeployedSmoothing(),
        version=5,
    ),
    Recipe(
        "recalibrate-mse",
        "the same with the clip next to the champion's that costs hardly more than the least "
        "squared error",
        activation=_MSE,
        smoothing=DeployedSmoothing(),
        version=6,
    ),
    Recipe("int8-max", "INT8, largest magnitude, no smoothing", version=6),
    Recipe(
        "int8-percentile",
        "INT8, 99.99th percentile, no smoothing",
        activation=_PERCENTILE,
        version=6,
    ),
    Recipe(
        "int8-mse", "INT8, clip of least squared error, no smoothing", activation=_MSE, version=6
    ),
    Recipe(
        "int8-entropy",
        "INT8, clip of least divergence, no smoothing",
        activation=_ENTROPY,
        version=6,
    ),
    Recipe(
        "int8-moving-average",
        "INT8, expected mean of batches' largest magnitudes, no smoothing",
        activation=Static(rule=RangeRule.MOVING_AVERAGE),
        version=6,
    ),
    Recipe(
        "int8-per-tensor",
        "INT8 with one scale a weight: for hardware without per-channel scales",
        WeightScheme(granularity=PerTensor()),
        version=6,
    ),
    Recipe(
        "int8-asymmetric",
        "INT8 activations with a zero-point: for skewed activations, where the runtime allows it",
        activation=Static(symmetric=False),
        version=6,
    ),
    Recipe(
        "int8-equalized",
        "INT8, ranges evened out between consecutive layers",
        smoothing=Equalized(),
        version=5,
    ),
    Recipe(
        "int8-bias-corrected",
        "INT8 with the mean output error subtracted",
        bias_correction=True,
        version=6,
    ),
    Recipe(
        "int8-dynamic",
        "INT8 weights; activation ranges at run time, from each batch",
        activation=Dynamic(),
    ),
    Recipe(
        "int8-per-token",
        "INT8, SmoothQuant searched with a range for each token at run time",
        activation=PerToken(),
        smoothing=_SMOOTH,
        version=5,
    ),
    Recipe(
        "int8-per-token-gptq",
        "int8-per-token with GPTQ rounding of the weights",
        activation=PerToken(),
        smoothing=_SMOOTH,
        rounding=_GPTQ,
    ),
    Recipe(
        "int8-smooth",
        "INT8, SmoothQuant with alpha tuned per site on the new traffic",
        smoothing=_SMOOTH,
    ),
    Recipe(
        "int8-headroom",
        f"int8-smooth with ranges {INT8_HEADROOM:g} times as large, for traffic still to come",
        activation=Static(headroom=INT8_HEADROOM),
        smoothing=_SMOOTH,
        version=5,
    ),
    Recipe(
        "int8-compact",
        "int8-smooth with INT8 embedding tables",
        smoothing=_SMOOTH,
        bias_correction=True,
        tables=NumberFormat.INT8,
        version=6,
    ),
    Recipe(
        "int8-gptq",
        "int8-smooth with GPTQ rounding of the weights",
        smoothing=_SMOOTH,
        rounding=_GPTQ,
    ),
    Recipe(
        "int8-kv",
        "int8-gptq with keys and values cached in INT8: for language models",
        smoothing=_SMOOTH,
        rounding=_GPTQ,
        kv_cache=NumberFormat.INT8,
    ),
    *(_mixed(count) for count in (1, 2, 3, 4, 6, 8)),
    Recipe(
        "int8-fp16",
        "int8-smooth with FP16 for everything else",
        smoothing=_SMOOTH,
        high_precision=_REST_IN_FP16,
    ),
    Recipe(
        "int8-fp16-gptq",
        "int8-gptq with FP16 for everything else",
        smoothing=_SMOOTH,
        rounding=_GPTQ,
        high_precision=_REST_IN_FP16,
    ),
    Recipe(
        "int8-fp16-mixed-4",
        "int8-fp16-gptq with the 4 most sensitive sites in FP16",
        smoothing=_SMOOTH,
        rounding=_GPTQ,
        high_precision=HighPrecision(4, NumberFormat.FP16),
    ),
    Recipe(
        "int8-trained",
        "int8-gptq with quantization-aware training of the most sensitive sites",
        smoothing=_SMOOTH,
        rounding=Trained(4),
        version=5,
    ),
    Recipe(
        "fp8",
        f"FP8 weights and activations, {FP8_HEADROOM:g} times the largest magnitude",
        WeightScheme(NumberFormat.FP8),
        Static(NumberFormat.FP8, headroom=FP8_HEADROOM),
        version=5,
    ),
    Recipe(
        "fp8-kv",
        "fp8 with keys and values cached in FP8: for checkpoints of language models",
        WeightScheme(NumberFormat.FP8),
        Static(NumberFormat.FP8, headroom=FP8_HEADROOM),
        kv_cache=NumberFormat.FP8,
        version=5,
    ),
    Recipe(
        "nvfp4",
        "FP4 weights, GPTQ rounding, and activations, 16 a scale, the output layer's weights INT8",
        _NVFP4,
        PerBlockOfToken(NumberFormat.FP4),
        rounding=_GPTQ,
        tables=NumberFormat.INT8,
        head=Head(_INT8_WEIGHTS),
    ),
    Recipe(
        "nvfp4-fp16",
        "nvfp4 with FP16 for everything else",
        _NVFP4,
        PerBlockOfToken(NumberFormat.FP4),
        rounding=_GPTQ,
        tables=NumberFormat.INT8,
        head=Head(_INT8_WEIGHTS),
        high_precision=_REST_IN_FP16,
    ),
    Recipe(
        "nvfp4-weights",
        "FP4 weights, GPTQ rounding, 16 a scale, the output layer in INT8 or more",
        _NVFP4,
        None,
        rounding=_GPTQ,
        tables=NumberFormat.INT8,
        head=Head(_INT8_WEIGHTS),
    ),
    Recipe(
        "mxfp8",
        "FP8 weights and activations, 32 a scale, a power of two",
        _MXFP8,
        PerBlockOfToken(NumberFormat.FP8),
    ),
    Recipe(
        "mxfp4-weights",
        "FP4 weights, GPTQ rounding, 32 a scale, a power of two, the output layer in INT8 or more",
        _MXFP4,
        None,
        rounding=_GPTQ,
        tables=NumberFormat.INT8,
        head=Head(_INT8_WEIGHTS),
    ),
    Recipe(
        "int8-weights",
        "INT8 weights, activations in floating point",
        activation=None,
        tables=NumberFormat.INT8,
    ),
    *(
        _weight_only(
            f"int4-block-{b}",
            f"INT4 weights, {b} a scale, the output layer in INT8 or more",
            NumberFormat.INT4,
            b,
        )
        for b in (32, 64, 128)
    ),
    _weight_only(
        "int4-awq",
        "INT4 weights, activation-aware scaling, INT8 output layer",
        NumberFormat.INT4,
        32,
        rounding=Awq(),
    ),
    _weight_only(
        "int4-gptq",
        "INT4 weights, GPTQ rounding, the output layer in INT8 or more",
        NumberFormat.INT4,
        32,
        rounding=_GPTQ,
    ),
    _weight_only(
        "int4-gptq-a8",
        "int4-gptq whose products may round activations to INT8: faster on ONNX Runtime",
        NumberFormat.INT4,
        32,
        rounding=_GPTQ,
        int8_products=True,
    ),
    *(_to_bits(bits) for bits in (4.5, 6)),
    _weight_only(
        "int4-mixed",
        "int4-gptq with the first and the last block in INT8 too",
        NumberFormat.INT4,
        32,
        rounding=_GPTQ,
        head_at_ends=True,
    ),
    _weight_only(
        "int2-block-32",
        "INT2 weights, 32 a scale, the output layer in INT8 or more",
        NumberFormat.INT2,
        32,
    ),
    _weight_only(
        "int2-gptq",
        "INT2 weights, GPTQ rounding, the output layer in INT8 or more",
        NumberFormat.INT2,
        32,
        rounding=_GPTQ,
    ),
    Recipe("fp16", "FP16 weight products", Cast(NumberFormat.FP16), None, tables=NumberFormat.FP16),
    Recipe(
        "fp16-whole",
        "the whole graph in FP16, where it holds the values",
        Cast(NumberFormat.FP16),
        None,
        high_precision=_REST_IN_FP16,
    ),
    Recipe("bf16", "BF16 weight products", Cast(NumberFormat.BF16), None, tables=NumberFormat.BF16),
    Recipe(
        "full-precision",
        "no quantization: the fallback when quality or safety cannot wait",
        quantized=False,
    ),
)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def renewed(asked: Recipe, name: str) -> Recipe:
    """Return what renews a champion's smoothing and scales, and keeps all else of its recipe.

    Args:
        asked: A recipe that keeps the champion's placement.
        name: The recipe that wrote the champion's graph.

    Raises:
        BadInput: It is none of these, or smooths nothing.
    """
    made_by = find_recipe(name)
    if made_by.smoothing is None or made_by.starts_from_champion:
        raise BadInput(
            f"recipe {asked.name} renews smoothing scales, and the champion's graph, which {name} "
            "wrote, has none: use recalibrate, or int8-smooth"
        )
    return replace(
        made_by,
        name=asked.name,
        summary=asked.summary,
        keeps_placement=True,
        drifting_sites=asked.drifting_sites,
    )


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name; raises `BadInput` naming the known ones.

    `int4-N-bits` is one for any mean of N bits a weight between 4.25 and 8.
    """
    asked = _BITS.fullmatch(name)
    if asked and name not in RECIPES:
        bits = float(asked[1])
        if not _LEAST_BITS < bits < _MOST_BITS:
            raise BadInput(
                f"recipe {name}: a weight has more than {_LEAST_BITS:g} bits with its share of a "
                f"scale, and fewer than {_MOST_BITS}: use int4-4.5-bits, int4-block-128 or "
                "int8-weights"
            )
        return _to_bits(bits)
    if name not in RECIPES:
        raise BadInput(f"no recipe is called {name!r}: allowed are {', '.join(RECIPES)}")
    return RECIPES[name]
