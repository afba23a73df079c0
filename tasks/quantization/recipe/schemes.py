"""The techniques that a recipe is put together from: small frozen configurations.

Each has one handler: activations and smoothing in `activation/quantizers.py`, roundings in
`weight/rounding.py`, placements in `graph/assemble.py`.
"""

from dataclasses import dataclass
from enum import StrEnum

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat
from tasks.numerics.quantized_weight import WeightScheme

SHORT_FLOATS = (NumberFormat.FP16, NumberFormat.BF16)
LARGEST_HEADROOM = 16.0
"""Leaves 3 of INT8's 7 bits of magnitude."""
FP8_HEADROOM = 2.0
"""Times the largest magnitude. E4M3 keeps 3 bits of mantissa wherever a value lies in its range, so
that SmolLM2 loses nothing by scales 2 to 8 times too large, and 1.4 to 1.7 times full precision's
perplexity by scales half as large as its activations.
"""
INT8_HEADROOM = 1.25
"""Of SmolLM2 with `down_proj` in floating point, 1.5 loses more than it saves, and 2 more still."""


class RangeRule(StrEnum):
    """How amax follows from a histogram."""

    MAX = "max"
    PERCENTILE = "percentile"  # the 99.99th
    MSE = "mse"
    ENTROPY = "entropy"
    MOVING_AVERAGE = "moving-average"  # of the batches' largest magnitudes


@dataclass(frozen=True, slots=True)
class Static:
    """Inputs of weighted layers with a range that is fixed at calibration, per tensor.

    No target fuses anything finer. Raises `BadInput` for what no quantizer expresses.
    """

    format: NumberFormat = NumberFormat.INT8
    symmetric: bool = True
    rule: RangeRule = RangeRule.MAX
    headroom: float = 1.0  # times what calibration asks for: room for traffic that is larger

    def __post_init__(self) -> None:
        if not 1.0 <= self.headroom <= LARGEST_HEADROOM:
            raise BadInput(
                f"a headroom of {self.headroom:g} is no room: use 1 to {LARGEST_HEADROOM:g}"
            )
        if self.format not in (NumberFormat.INT8, NumberFormat.FP8):
            raise BadInput(f"an activation cannot be quantized to {self.format}: use INT8 or FP8")
        if self.format is NumberFormat.FP8 and not self.symmetric:
            raise BadInput("FP8 and an asymmetric activation do not go together: use INT8")


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Ranges at run time, from each batch: INT8 with a zero-point."""


@dataclass(frozen=True, slots=True)
class PerToken:
    """Ranges at run time, one a token: INT8, symmetric.

    Each token is divided by its largest magnitude before a quantizer of range 1, and what the
    product returns is multiplied by it. It is what every target fuses, and nothing in it drifts.
    """


@dataclass(frozen=True, slots=True)
class PerBlockOfToken:
    """Ranges at run time, one a block of a token's channels: NVFP4 (FP4) or MXFP8 (FP8).

    NVFP4's scales are short floats, in units of one scale a tensor that calibration fixes: the
    largest magnitude with headroom. They span 17 powers of two, so that it does not drift.
    """

    format: NumberFormat
    headroom: float = FP8_HEADROOM  # of the tensor's scale

    def __post_init__(self) -> None:
        if self.format not in (NumberFormat.FP4, NumberFormat.FP8):
            raise BadInput(f"no block of an activation is quantized to {self.format}: use FP4, FP8")


Activation = Static | Dynamic | PerToken | PerBlockOfToken


@dataclass(frozen=True, slots=True)
class DeployedSmoothing:
    """The champion's graph, and with it its smoothing scales and formats: only ranges change."""


@dataclass(frozen=True, slots=True)
class Searched:
    """SmoothQuant with alpha per site, by output error on the calibration set."""


@dataclass(frozen=True, slots=True)
class Equalized:
    """Nagel et al. (2019), only where the smoothing scales fold into the layer before."""


Smoothing = DeployedSmoothing | Searched | Equalized


@dataclass(frozen=True, slots=True)
class Nearest:
    """To the nearest quantized value."""


@dataclass(frozen=True, slots=True)
class Gptq:
    """Later weights make up for the errors of earlier ones: Frantar et al. (2023)."""


@dataclass(frozen=True, slots=True)
class Awq:
    """Scaling and clipping for the weights that meet large activations: Lin et al. (2024)."""


@dataclass(frozen=True, slots=True)
class Trained:
    """GPTQ, then quantization-aware training of the most sensitive sites."""

    sites: int

    def __post_init__(self) -> None:
        if self.sites < 1:
            raise BadInput(f"{self.sites} sites cannot be trained: use GPTQ where none is to be")


Rounding = Nearest | Gptq | Awq | Trained


@dataclass(frozen=True, slots=True)
class Cast:
    """Weight products in a shorter floating-point format, without scales."""

    format: NumberFormat

    def __post_init__(self) -> None:
        if self.format not in SHORT_FLOATS:
            raise BadInput(f"a product cannot be cast to {self.format}: use FP16 or BF16")


@dataclass(frozen=True, slots=True)
class Head:
    """A weight scheme of its own for the layer that returns the output."""

    weights: WeightScheme
    at_ends: bool = False  # the first and the last numbered block get it too


@dataclass(frozen=True, slots=True)
class Raised:
    """A mean of bits a weight, scales counted, over all layers but the head.

    Up to it, the layers that lose most for their weights are stored in `weights` instead.
    """

    bits: float
    weights: WeightScheme


@dataclass(frozen=True, slots=True)
class HighPrecision:
    """What is not quantized: the most sensitive sites, and with a shorter float the whole rest.

    FP16 and BF16 are the format of the whole graph (`tasks.graphs.short_floats`), casts at its
    borders; FP32 is that of the sites alone, as nothing else changes.
    """

    sites: int
    format: NumberFormat = NumberFormat.FP32  # what they compute in

    def __post_init__(self) -> None:
        if self.sites < 0 or (not self.sites and self.format is NumberFormat.FP32):
            raise BadInput(f"{self.sites} sites cannot be kept in high precision: leave it out")
        if self.format not in (NumberFormat.FP32, *SHORT_FLOATS):
            raise BadInput(f"{self.format} is no high precision: use FP32, FP16 or BF16")
