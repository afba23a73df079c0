"""Floats of few bits in blocks, whose scales are short floats too: NVFP4, MXFP8 and MXFP4.

NVFP4 has 16 elements in E2M1 a scale in E4M3, times one float32 a tensor (NVIDIA, "Introducing
NVFP4 for efficient and accurate low-precision inference", 2025). The MX formats have 32 elements a
scale that is a power of two, E8M0 (OCP, "Microscaling formats (MX) specification", v1.0, 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tasks.numerics.formats import NumberFormat, ScaleFormat, round_to_format

E4M3_LARGEST = 448.0
E4M3_SMALLEST = 2.0**-9
NVFP4_LARGEST = NumberFormat.FP4.largest * E4M3_LARGEST
"""What the largest element times the largest scale is, in units of the tensor's own scale."""
_LEAST_POWER, _MOST_POWER = -126, 127
"""Of E8M0's exponents, those that are normal numbers in float32."""
NVFP4_BLOCK, MX_BLOCK = 16, 32


def tensor_scale(amax: float) -> float:
    """Return NVFP4's scale of a whole tensor, float32: its largest block gets the largest E4M3."""
    scale = float(np.float32(amax) / np.float32(NVFP4_LARGEST))
    return scale if scale > 0 else 1.0


def stored_scales(
    scales: NDArray[np.float32], format: ScaleFormat, of_tensor: float | None = None
) -> NDArray[np.float32]:
    """Return positive scales as they are stored, restored to float32; any shape.

    E4M3 is to the nearest, in units of the tensor's scale, and never 0. E8M0 is the next power of
    two that is not below, so that nothing is cut off: half of it is OCP's own rule, 2^(floor(log2
    amax) - emax), wherever that cuts off, and equal to it elsewhere.
    """
    if format is ScaleFormat.E8M0:
        return powers_of_two(scales)
    if format is ScaleFormat.FP32 or of_tensor is None:
        return scales
    units = np.clip(scales / np.float32(of_tensor), E4M3_SMALLEST, E4M3_LARGEST)
    short: NDArray[np.float32] = units.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    return short * np.float32(of_tensor)


def powers_of_two(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the least power of two that is not below each value, from 2^-126 to 2^127."""
    fraction, exponent = np.frexp(values)
    up = np.where(fraction == 0.5, exponent - 1, exponent)
    exponents = np.clip(up, _LEAST_POWER, _MOST_POWER)
    powers: NDArray[np.float32] = np.ldexp(np.float32(1), exponents).astype(np.float32)
    return powers


@dataclass(frozen=True, slots=True)
class BlockQuantizer:
    """Of an activation: a scale a block of its last axis, found at run time.

    NVFP4's scale of the tensor is fixed; MXFP8 has none.
    """

    format: NumberFormat  # FP4: NVFP4; FP8: MXFP8
    tensor_scale: float | None = None

    @property
    def block(self) -> int:
        """How many channels share a scale."""
        return NVFP4_BLOCK if self.format is NumberFormat.FP4 else MX_BLOCK


def fake_quantize_blocks(
    values: NDArray[np.float32], quantizer: BlockQuantizer
) -> NDArray[np.float32]:
    """Round an activation [..., channels] in blocks of its channels, and restore it.

    A block whose scale is 0 in E4M3 becomes zeros.
    """
    blocks = values.reshape(-1, quantizer.block)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    if quantizer.tensor_scale is None:
        wanted = largest / np.float32(quantizer.format.largest)
        steps = powers_of_two(np.maximum(wanted, np.float32(2.0**_LEAST_POWER)))
    else:
        whole = np.float32(quantizer.tensor_scale)
        wanted = largest / (np.float32(quantizer.format.largest) * whole)
        short = np.minimum(wanted, E4M3_LARGEST).astype(ml_dtypes.float8_e4m3fn)
        steps = short.astype(np.float32) * whole
    divisors = np.where(steps > 0, steps, 1.0).astype(np.float32)
    units: NDArray[np.float32] = (blocks / divisors).astype(np.float32)
    rounded = round_to_format(units, quantizer.format).astype(np.float32)
    restored: NDArray[np.float32] = rounded * steps
    return restored.reshape(values.shape)
