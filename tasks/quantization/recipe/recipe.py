"""A recipe: one way to quantize, refused at definition where nothing implements it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from infra.canonical import Json
from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat, PerBlock, PerTensor, ScaleFormat
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.recipe.schemes import (
    SHORT_FLOATS,
    Activation,
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
    Smoothing,
    Static,
    Trained,
)

_INT8_WEIGHTS, _INT8_ACTIVATION, _NEAREST = WeightScheme(), Static(), Nearest()
_STORED_SMOOTHING = {
    type(None): "none",
    DeployedSmoothing: "deployed",
    Searched: "searched",
    Equalized: "equalized",
}
_STORED_ROUNDING = {Nearest: "nearest", Gptq: "gptq", Awq: "awq", Trained: "trained"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize; raises `BadInput` for a pair of techniques that nothing implements."""

    name: str
    summary: str  # one sentence, shown to people
    weights: WeightScheme | Cast = _INT8_WEIGHTS
    activation: Activation | None = _INT8_ACTIVATION  # None: left in floating point
    smoothing: Smoothing | None = None
    rounding: Rounding = _NEAREST
    bias_correction: bool = False
    tables: NumberFormat = NumberFormat.FP32  # embedding tables; INT8 has one scale a row
    head: Head | None = None
    raised: Raised | None = None  # weights alone: layers in more bits, up to a mean
    kv_cache: NumberFormat = NumberFormat.FP32  # a language model's keys and values between steps
    high_precision: HighPrecision | None = None
    # Of weights alone with a scale a block: whether ONNX Runtime may round activations to INT8.
    int8_products: bool = False
    keeps_placement: bool = False  # the champion's sites stay where they are, as does its recipe
    drifting_sites: int = 0  # further ones in floating point: where the champion lost most
    quantized: bool = True  # False: full precision, and no technique at all
    version: int = 4

    def __post_init__(self) -> None:
        if self.tables not in (NumberFormat.FP32, NumberFormat.INT8, *SHORT_FLOATS):
            raise BadInput(
                f"recipe {self.name}: an embedding table cannot be stored in {self.tables}: "
                "use INT8, FP16 or BF16"
            )
        if self.kv_cache not in (NumberFormat.FP32, NumberFormat.INT8, NumberFormat.FP8):
            raise BadInput(
                f"recipe {self.name}: keys and values cannot be cached in {self.kv_cache}: use "
                "INT8 or FP8"
            )
        for pair in UNSUPPORTED:
            if pair.asked_by(self):
                raise BadInput(
                    f"recipe {self.name}: {pair.first} and {pair.second} do not go together: "
                    f"{pair.possible}"
                )

    @property
    def learns_from_many(self) -> bool:
        """Whether GPTQ needs more rows than an observation keeps: few bits move weights far."""
        of_weights = self.activation is None or isinstance(self.activation, PerBlockOfToken)
        return isinstance(self.rounding, Gptq) and of_weights

    @property
    def keeps_graph(self) -> bool:
        """Whether only activation scales change: the champion's graph is patched."""
        return isinstance(self.smoothing, DeployedSmoothing)

    @property
    def starts_from_champion(self) -> bool:
        """Whether what it makes depends on the champion, which has to be quantized."""
        return self.keeps_graph or self.keeps_placement

    @property
    def corrects_means(self) -> bool:
        """Whether layers whose error has a large mean are corrected, though no others are."""
        return (
            isinstance(self.activation, Static)
            and self.activation.format is NumberFormat.INT8
            and self.smoothing is None
            and isinstance(self.rounding, Nearest)
        )

    @property
    def weighs(self) -> bool:
        """Whether ranges follow from an activation's whole distribution, not its largest value."""
        return isinstance(self.activation, Static) and self.activation.rule is not RangeRule.MAX

    @property
    def high_precision_sites(self) -> int:
        """How many of the most sensitive sites are not quantized."""
        return self.high_precision.sites if self.high_precision else 0

    @property
    def rest(self) -> NumberFormat:
        """What everything computes in that is not quantized."""
        return self.high_precision.format if self.high_precision else NumberFormat.FP32

    @property
    def floating_sites(self) -> int:
        """How many sites it leaves in floating point, most sensitive or most drifting ones."""
        return self.high_precision_sites + self.drifting_sites

    @property
    def takes_recurrent(self) -> bool:
        """Whether LSTMs are quantized, too: not where what is sensitive stays in floats."""
        stored = isinstance(self.weights, WeightScheme) and self.weights.format.is_integer
        return self.quantized and stored and not self.high_precision and not self.drifting_sites

    @property
    def trained_sites(self) -> int:
        """How many of the most sensitive sites are trained."""
        return self.rounding.sites if isinstance(self.rounding, Trained) else 0

    def document(self) -> Mapping[str, Json]:
        """Return it as a release's manifest holds it: one flat form for every technique."""
        head, high = self.head, self.high_precision or HighPrecision(1)
        return {
            "name": self.name,
            "summary": self.summary,
            "weights": _stored_weights(self.weights),
            "activations": _stored_activation(self.activation),
            "smoothing": _STORED_SMOOTHING[type(self.smoothing)],
            "rounding": _STORED_ROUNDING[type(self.rounding)],
            "bias_correction": self.bias_correction,
            "tables": self.tables.value,
            "head": _stored_weights(head.weights) if head else None,
            "head_at_ends": head is not None and head.at_ends,
            "kv_cache": self.kv_cache.value,
            "trained_sites": self.trained_sites,
            "high_precision_sites": self.high_precision_sites,
            "high_precision": high.format.value,
            "drifting_sites": self.drifting_sites,
            "placement": "deployed" if self.starts_from_champion else "own",
            "quantized": self.quantized,
            "version": self.version,
            **({"int8_products": True} if self.int8_products else {}),
            **({"bits": self.raised.bits} if self.raised else {}),
        }


def _stored_weights(weights: WeightScheme | Cast) -> dict[str, Json]:
    if isinstance(weights, Cast):
        return {**_stored_weights(_INT8_WEIGHTS), "format": weights.format.value}
    stored = asdict(weights)
    if weights.scales is ScaleFormat.FP32:
        del stored["scales"]  # as manifests of before other scales have it
    return stored


def _stored_activation(activation: Activation | None) -> Json:
    if activation is None:
        return None
    if isinstance(activation, PerBlockOfToken):
        return {
            "format": activation.format.value,
            "symmetric": True,
            "dynamic": True,
            "per_token": False,
            "per_block": True,
            "rule": RangeRule.MAX.value,
            "headroom": activation.headroom,
        }
    if isinstance(activation, Dynamic | PerToken):
        return {
            "format": NumberFormat.INT8.value,
            "symmetric": isinstance(activation, PerToken),
            "dynamic": True,
            "per_token": isinstance(activation, PerToken),
            "rule": RangeRule.MAX.value,
            "headroom": 1.0,
        }
    return {
        "format": activation.format.value,
        "symmetric": activation.symmetric,
        "dynamic": False,
        "per_token": False,
        "rule": activation.rule.value,
        "headroom": activation.headroom,
    }


@dataclass(frozen=True, slots=True)
class Pair:
    """Two techniques that nothing implements together."""

    first: str
    second: str
    asked_by: Callable[[Recipe], bool]
    possible: str  # what a recipe may say instead


def _is_static(recipe: Recipe) -> bool:
    return isinstance(recipe.activation, Static)


def _searches_by_token(recipe: Recipe) -> bool:
    return isinstance(recipe.activation, PerToken) and isinstance(recipe.smoothing, Searched)


def _has_format(recipe: Recipe, format: NumberFormat) -> bool:
    return isinstance(recipe.activation, Static) and recipe.activation.format is format


def _share_blocks(recipe: Recipe, activation: PerBlockOfToken) -> bool:
    weights, e4m3 = recipe.weights, activation.format is NumberFormat.FP4
    wanted = ScaleFormat.E4M3 if e4m3 else ScaleFormat.E8M0
    return (
        isinstance(weights, WeightScheme)
        and weights.format is activation.format
        and weights.scales is wanted
    )


def _schemes(recipe: Recipe) -> tuple[WeightScheme, ...]:
    schemes = [recipe.weights] if isinstance(recipe.weights, WeightScheme) else []
    return (*schemes, *([recipe.head.weights] if recipe.head else []))


def _changes_weights(recipe: Recipe) -> bool:
    """Return whether it asks for anything but plain INT8 weights."""
    return recipe.weights != _INT8_WEIGHTS or _refines(recipe)


def _is_whole(recipe: Recipe) -> bool:
    """Return whether all of a graph is cast, and nothing else asked."""
    whole = HighPrecision(0, recipe.weights.format) if isinstance(recipe.weights, Cast) else None
    return recipe.high_precision == whole and not _refines(replace(recipe, high_precision=None))


def _refines(recipe: Recipe) -> bool:
    """Return whether it asks for more than what weights and activations are stored as."""
    return (
        recipe.rounding != _NEAREST
        or recipe.bias_correction
        or recipe.head is not None
        or recipe.high_precision is not None
    )


UNSUPPORTED: Sequence[Pair] = (
    Pair(
        "sites that drift",
        "a placement of its own",
        lambda r: r.drifting_sites > 0 and not r.keeps_placement,
        "keep the champion's placement: a site drifts from what the champion was calibrated on",
    ),
    Pair(
        "the champion's placement",
        "no smoothing of its own",
        lambda r: r.keeps_placement and (r.smoothing is None or r.keeps_graph),
        "search or equalize its smoothing scales, or keep the champion's graph",
    ),
    Pair(
        "full precision",
        "a technique",
        lambda r: (
            not r.quantized
            and (
                _changes_weights(r)
                or r.activation != _INT8_ACTIVATION
                or r.smoothing is not None
                or r.tables is not NumberFormat.FP32
                or r.kv_cache is not NumberFormat.FP32
            )
        ),
        "leave every technique out",
    ),
    Pair(
        "products in a shorter float",
        "quantized activations",
        lambda r: isinstance(r.weights, Cast) and r.activation is not None,
        "leave the activation in floating point",
    ),
    Pair(
        "products in a shorter float",
        "rounding, bias correction, a head or high precision",
        lambda r: isinstance(r.weights, Cast) and not _is_whole(r) and _refines(r),
        "leave these out, or use integer or FP8 weights",
    ),
    Pair(
        "a whole graph in a shorter float",
        "an INT8 cache, or ranges at run time",
        lambda r: (
            r.rest in SHORT_FLOATS
            and (r.kv_cache is not NumberFormat.FP32 or isinstance(r.activation, Dynamic))
        ),
        "keep the rest in FP32, or use static activations without a cache of its own",
    ),
    Pair(
        "an FP8 cache",
        "smoothing",
        lambda r: r.kv_cache is NumberFormat.FP8 and r.smoothing is not None,
        "leave smoothing out: its scales divide values behind the range that was observed",
    ),
    Pair(
        "smoothing",
        "activations without a fixed range",
        lambda r: r.smoothing is not None and not _is_static(r) and not _searches_by_token(r),
        "use a static activation, a search with a range for each token, or AWQ for weights alone",
    ),
    Pair(
        "searched smoothing",
        "FP8 activations",
        lambda r: isinstance(r.smoothing, Searched) and _has_format(r, NumberFormat.FP8),
        "use INT8 activations, or equalization",
    ),
    Pair(
        "FP8 activations",
        "a range rule that clips",
        lambda r: _has_format(r, NumberFormat.FP8) and r.weighs,
        "take the largest magnitude, with headroom: FP8 gains nothing by a clip and loses what it "
        "cuts off",
    ),
    Pair(
        "searched smoothing",
        "asymmetric activations",
        lambda r: (
            isinstance(r.smoothing, Searched)
            and isinstance(r.activation, Static)
            and not r.activation.symmetric
        ),
        "use symmetric activations, or equalization",
    ),
    Pair(
        "the champion's graph",
        "an activation format of its own",
        lambda r: (
            r.keeps_graph
            and isinstance(r.activation, Static)
            and (r.activation.format is not NumberFormat.INT8 or not r.activation.symmetric)
        ),
        "the graph keeps its formats, and the recipe chooses range rule and headroom alone",
    ),
    Pair(
        "the champion's graph",
        "new weights, tables or cache",
        lambda r: (
            r.keeps_graph
            and (
                _changes_weights(r)
                or r.tables is not NumberFormat.FP32
                or r.kv_cache is not NumberFormat.FP32
            )
        ),
        "the graph keeps these, and the recipe chooses the range rule alone",
    ),
    Pair(
        "AWQ",
        "activations of a fixed range",
        lambda r: isinstance(r.rounding, Awq) and _is_static(r),
        "leave the activation in floating point, or use a dynamic range",
    ),
    Pair(
        "activations in blocks",
        "weights of another form",
        lambda r: isinstance(r.activation, PerBlockOfToken) and not _share_blocks(r, r.activation),
        "store the weights as the activation: FP4 with scales in E4M3, or FP8 with scales in E8M0",
    ),
    Pair(
        "MXFP8 activations",
        "a whole graph in a shorter float",
        lambda r: (
            isinstance(r.activation, PerBlockOfToken)
            and r.activation.format is NumberFormat.FP8
            and r.rest in SHORT_FLOATS
        ),
        "keep the rest in FP32, or use NVFP4: FP16 does not hold all powers of two",
    ),
    Pair(
        "products in INT8",
        "anything but weights in blocks",
        lambda r: (
            r.int8_products
            and (
                r.activation is not None
                or not isinstance(r.weights, WeightScheme)
                or not isinstance(r.weights.granularity, PerBlock)
            )
        ),
        "leave int8_products out, or the activation in floating point",
    ),
    Pair(
        "a mean of bits",
        "anything but integer weights in blocks, activations in floating point",
        lambda r: (
            r.raised is not None
            and (
                r.activation is not None
                or not isinstance(r.weights, WeightScheme)
                or not r.weights.format.is_integer
                or not isinstance(r.weights.granularity, PerBlock)
            )
        ),
        "leave the bits out, or the activation in floating point",
    ),
    Pair(
        "AWQ",
        "one scale a tensor",
        lambda r: (
            isinstance(r.rounding, Awq)
            and any(isinstance(scheme.granularity, PerTensor) for scheme in _schemes(r))
        ),
        "use scales per channel or per block",
    ),
    Pair(
        "training",
        "FP8",
        lambda r: (
            isinstance(r.rounding, Trained)
            and (
                _has_format(r, NumberFormat.FP8)
                or any(not scheme.format.is_integer for scheme in _schemes(r))
            )
        ),
        "use INT8, INT4 or INT2 weights and INT8 activations",
    ),
)
