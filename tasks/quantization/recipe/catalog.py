"""Recipes: small frozen descriptions of how an observation becomes a quantized graph."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from infra.canonical import Json
from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat, PerBlock, PerTensor
from tasks.quantization.activation.ranges import RangeRule
from tasks.quantization.weight.quantize import WeightScheme


class Smoothing(StrEnum):
    """Where the per-channel factors come from."""

    NONE = "none"
    DEPLOYED = "deployed"  # the champion's
    SEARCHED = "searched"  # alpha per site, by output error on the calibration set
    EQUALIZED = (
        "equalized"  # Nagel et al. (2019); only where the factors fold into the layer before
    )


class Rounding(StrEnum):
    """How weights find their levels."""

    NEAREST = "nearest"
    GPTQ = "gptq"  # Frantar et al. (2023)
    AWQ = "awq"  # Lin et al. (2024)
    TRAINED = "trained"  # quantization-aware training of the most sensitive sites


@dataclass(frozen=True, slots=True)
class ActivationScheme:
    """How the inputs of weighted layers are quantized: per tensor, because no target fuses anything else."""

    format: NumberFormat = NumberFormat.INT8
    symmetric: bool = True
    dynamic: bool = False  # ranges at run time, from each batch
    rule: RangeRule = RangeRule.MAX  # without meaning where dynamic


_INT8_WEIGHTS, _INT8_ACTIVATIONS = WeightScheme(), ActivationScheme()


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize."""

    name: str
    summary: str  # one sentence, shown to people
    weights: WeightScheme = _INT8_WEIGHTS
    activations: ActivationScheme | None = _INT8_ACTIVATIONS  # None: weight-only
    smoothing: Smoothing = Smoothing.NONE
    rounding: Rounding = Rounding.NEAREST
    bias_correction: bool = False
    tables: NumberFormat = NumberFormat.FP32  # embedding tables, one scale a row
    head: WeightScheme | None = (
        None  # of the layer that returns the output, where it has a scheme of its own
    )
    head_at_ends: bool = False  # the first and the last numbered block get the head's scheme too
    kv_cache: NumberFormat = (
        NumberFormat.FP32
    )  # a language model's keys and values between steps: FP32 or INT8, one scale a tensor
    trained_sites: int = 0  # the most sensitive ones, where the rounding is trained
    high_precision_sites: int = 0  # the most sensitive sites are not quantized
    high_precision: NumberFormat = NumberFormat.FP32  # what those compute in
    quantized: bool = True
    version: int = 4

    def document(self) -> Mapping[str, Json]:
        """As it is written into a release's manifest."""
        return asdict(self)

    @property
    def learns_from_many(self) -> bool:
        """Few bits lose so much that GPTQ moves weights far: it then needs more rows than an observation keeps."""
        return self.rounding is Rounding.GPTQ and self.activations is None

    @property
    def keeps_graph(self) -> bool:
        """Only activation scales change: the champion's graph is patched."""
        return self.smoothing is Smoothing.DEPLOYED

    @property
    def weighs(self) -> bool:
        """Its ranges follow from the whole distribution of an activation, not from its largest magnitude."""
        return self.activations is not None and self.activations.rule is not RangeRule.MAX


_MSE, _PERCENTILE, _ENTROPY = (
    ActivationScheme(rule=rule) for rule in (RangeRule.MSE, RangeRule.PERCENTILE, RangeRule.ENTROPY)
)
_SMOOTH = Smoothing.SEARCHED


def _mixed(count: int) -> Recipe:
    return Recipe(
        f"int8-mixed-{count}",
        f"int8-gptq with the {count} most sensitive sites in floating point",
        smoothing=_SMOOTH,
        rounding=Rounding.GPTQ,
        high_precision_sites=count,
    )


def _weight_only(
    name: str, summary: str, format: NumberFormat, block: int, **more: object
) -> Recipe:
    scheme = WeightScheme(format, PerBlock(block), clipped=True)
    return Recipe(name, summary, scheme, None, tables=NumberFormat.INT8, head=_INT8_WEIGHTS, **more)  # type: ignore[arg-type]  # its own fields


_ALL = (
    Recipe(
        "recalibrate",
        "the champion's graph with scales from the new traffic",
        smoothing=Smoothing.DEPLOYED,
    ),
    Recipe(
        "recalibrate-mse",
        "the same with the clip next to the champion's that costs hardly more than the least squared error",
        activations=_MSE,
        smoothing=Smoothing.DEPLOYED,
        version=5,
    ),
    Recipe("int8-max", "INT8, largest magnitude, no smoothing"),
    Recipe("int8-percentile", "INT8, 99.99th percentile, no smoothing", activations=_PERCENTILE),
    Recipe("int8-mse", "INT8, clip of least squared error, no smoothing", activations=_MSE),
    Recipe("int8-entropy", "INT8, clip of least divergence, no smoothing", activations=_ENTROPY),
    Recipe(
        "int8-moving-average",
        "INT8, expected mean of batches' largest magnitudes, no smoothing",
        activations=ActivationScheme(rule=RangeRule.MOVING_AVERAGE),
    ),
    Recipe(
        "int8-per-tensor",
        "INT8 with one scale a weight: for hardware without per-channel scales",
        WeightScheme(granularity=PerTensor()),
    ),
    Recipe(
        "int8-asymmetric",
        "INT8 activations with a zero-point: for skewed activations, where the runtime allows it",
        activations=ActivationScheme(symmetric=False),
    ),
    Recipe(
        "int8-equalized",
        "INT8, ranges evened out between consecutive layers",
        smoothing=Smoothing.EQUALIZED,
        version=5,
    ),
    Recipe(
        "int8-bias-corrected",
        "INT8 with the mean output error subtracted",
        bias_correction=True,
        version=5,
    ),
    Recipe(
        "int8-dynamic",
        "INT8 weights; activation ranges at run time, from each batch",
        activations=ActivationScheme(dynamic=True, symmetric=False),
    ),
    Recipe(
        "int8-smooth",
        "INT8, SmoothQuant with alpha tuned per site on the new traffic",
        smoothing=_SMOOTH,
    ),
    Recipe(
        "int8-compact",
        "int8-smooth with INT8 embedding tables",
        smoothing=_SMOOTH,
        bias_correction=True,
        tables=NumberFormat.INT8,
        version=5,
    ),
    Recipe(
        "int8-gptq",
        "int8-smooth with GPTQ rounding of the weights",
        smoothing=_SMOOTH,
        rounding=Rounding.GPTQ,
    ),
    Recipe(
        "int8-kv",
        "int8-gptq with keys and values cached in INT8: for language models",
        smoothing=_SMOOTH,
        rounding=Rounding.GPTQ,
        kv_cache=NumberFormat.INT8,
    ),
    *(_mixed(count) for count in (1, 2, 3, 4, 6, 8)),
    Recipe(
        "int8-trained",
        "int8-gptq with quantization-aware training of the most sensitive sites",
        smoothing=_SMOOTH,
        rounding=Rounding.TRAINED,
        trained_sites=4,
        version=5,
    ),
    Recipe(
        "fp8",
        "FP8 weights and activations",
        WeightScheme(NumberFormat.FP8),
        ActivationScheme(NumberFormat.FP8),
    ),
    Recipe(
        "int8-weights",
        "INT8 weights, activations in floating point",
        activations=None,
        tables=NumberFormat.INT8,
    ),
    *(
        _weight_only(
            f"int4-block-{b}",
            f"INT4 weights, {b} a scale, the output layer in INT8",
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
        rounding=Rounding.AWQ,
    ),
    _weight_only(
        "int4-gptq",
        "INT4 weights, GPTQ rounding, the output layer in INT8",
        NumberFormat.INT4,
        32,
        rounding=Rounding.GPTQ,
    ),
    _weight_only(
        "int4-mixed",
        "int4-gptq with the first and the last block in INT8 too",
        NumberFormat.INT4,
        32,
        rounding=Rounding.GPTQ,
        head_at_ends=True,
    ),
    _weight_only(
        "int2-block-32", "INT2 weights, 32 a scale, the output layer in INT8", NumberFormat.INT2, 32
    ),
    _weight_only(
        "int2-gptq",
        "INT2 weights, GPTQ rounding, the output layer in INT8",
        NumberFormat.INT2,
        32,
        rounding=Rounding.GPTQ,
    ),
    Recipe(
        "fp16",
        "FP16 weight products",
        WeightScheme(NumberFormat.FP16),
        None,
        tables=NumberFormat.FP16,
    ),
    Recipe(
        "bf16",
        "BF16 weight products",
        WeightScheme(NumberFormat.BF16),
        None,
        tables=NumberFormat.BF16,
    ),
    Recipe(
        "full-precision",
        "no quantization: the fallback when quality or safety cannot wait",
        quantized=False,
    ),
)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; raises `BadInput` naming the known ones."""
    if name not in RECIPES:
        raise BadInput(f"no recipe is called {name!r}: allowed are {', '.join(RECIPES)}")
    return RECIPES[name]
