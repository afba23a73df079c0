"""Number formats, and how much of a weight shares one scale."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-35
"""Smallest range: divided by any format's largest value, it is still a normal float32."""
LARGEST = 1e38
"""Largest range: its lowest quantized value, twice as far out in INT2, is still a float32."""
ORDINARY = (1e-9, 1e9)
"""Magnitudes whose products, summed and squared, are normal float32 numbers."""


class NumberFormat(StrEnum):
    """What a number is stored as."""

    INT8 = "int8"
    INT4 = "int4"
    INT2 = "int2"
    FP8 = "fp8"  # E4M3 without infinities, as ONNX's FLOAT8E4M3FN
    FP4 = "fp4"  # E2M1, as ONNX's FLOAT4E2M1: 0, 0.5, 1, 1.5, 2, 3, 4 and 6
    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def bits(self) -> int:
        """Bits of one number."""
        return _BITS[self.value]

    @property
    def is_integer(self) -> bool:
        """Whether quantized values are evenly spaced."""
        return self in (NumberFormat.INT8, NumberFormat.INT4, NumberFormat.INT2)

    @property
    def is_scaled(self) -> bool:
        """Whether it needs a scale: everything but the plain floating-point formats does."""
        return self.is_integer or self in (NumberFormat.FP8, NumberFormat.FP4)

    @property
    def largest(self) -> float:
        """The quantized value that amax is mapped to: 127, 7, 1, 448 for FP8, or 6 for FP4."""
        if self.is_integer:
            return {8: 127.0, 4: 7.0, 2: 1.0}[self.bits]
        return 6.0 if self is NumberFormat.FP4 else 448.0


_BITS = {"int8": 8, "int4": 4, "int2": 2, "fp8": 8, "fp4": 4, "fp16": 16, "bf16": 16, "fp32": 32}


class ScaleFormat(StrEnum):
    """What the scale of a block is stored as."""

    FP32 = "fp32"
    E4M3 = "e4m3"  # times one float32 a tensor: NVFP4
    E8M0 = "e8m0"  # a power of two: the MX formats


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale: weight [outputs, inputs] -> scales [1, 1]."""

    kind: Literal["per-tensor"] = "per-tensor"


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale an output channel: weight [outputs, inputs] -> scales [outputs, 1]."""

    kind: Literal["per-channel"] = "per-channel"


@dataclass(frozen=True, slots=True)
class PerBlock:
    """One scale for `size` inputs of an output channel: weight [4, 64], size 32 -> [4, 2]."""

    size: int
    kind: Literal["per-block"] = "per-block"


Granularity = PerTensor | PerChannel | PerBlock

_FLOATS = {NumberFormat.FP8: ml_dtypes.float8_e4m3fn, NumberFormat.FP4: ml_dtypes.float4_e2m1fn}


def round_to_format(values: NDArray[np.float32], format: NumberFormat) -> NDArray[np.generic]:
    """Round values in units of the scale as QuantizeLinear does: ties to even, saturating.

    Integer formats give int8 (whatever their width), FP8 gives float8_e4m3fn, FP4 float4_e2m1fn.
    """
    if format in _FLOATS:
        return np.clip(values, -format.largest, format.largest).astype(_FLOATS[format])
    rounded = np.asarray(np.rint(values))
    return np.clip(rounded, -format.largest - 1, format.largest, out=rounded).astype(np.int8)


def widened(values: NDArray[np.float32], *others: NDArray[np.float32]) -> NDArray[np.floating]:
    """Return the values, in float64 where products with the others would leave float32."""
    largest = [
        max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))
        for array in (values, *others)
    ]
    ordinary = all(not amax or ORDINARY[0] < amax < ORDINARY[1] for amax in largest)
    return values if ordinary else values.astype(np.float64)
