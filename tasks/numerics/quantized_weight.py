"""A quantized weight: values and scales, by plain rounding. GPTQ and AWQ start from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.numerics.block_floats import MX_BLOCK, NVFP4_BLOCK, stored_scales, tensor_scale
from tasks.numerics.formats import (
    LARGEST,
    Granularity,
    NumberFormat,
    PerBlock,
    PerChannel,
    PerTensor,
    ScaleFormat,
    round_to_format,
    widened,
)

SMALLEST_SCALE = 1e-37
"""Below it, a weight over its scale is no normal float32, and the channel computes nothing."""
SHRINKS = tuple(np.linspace(1.0, 0.3, 29).tolist())
"""Fractions of the largest magnitude that a search for the clip of least squared error tries."""
OUTPUTS_AT_ONCE = 8192
"""Of a weight that is rounded: whole copies of a vocabulary's would be the peak of memory."""

_BY_CHANNEL = PerChannel()
_BLOCK_FLOATS = (
    (NumberFormat.FP4, PerBlock(NVFP4_BLOCK), ScaleFormat.E4M3),
    (NumberFormat.FP4, PerBlock(MX_BLOCK), ScaleFormat.E8M0),
    (NumberFormat.FP8, PerBlock(MX_BLOCK), ScaleFormat.E8M0),
)


@dataclass(frozen=True, slots=True)
class WeightScheme:
    """How weights are stored; raises `BadInput` for a format that has no such scales."""

    format: NumberFormat = NumberFormat.INT8
    granularity: Granularity = _BY_CHANNEL
    symmetric: bool = True
    clipped: bool = False  # scales of least squared rounding error, not of the largest magnitude
    scales: ScaleFormat = ScaleFormat.FP32

    def __post_init__(self) -> None:
        if not self.format.is_scaled:
            raise BadInput(
                f"a weight in {self.format} has no scale: use INT8, INT4, INT2, FP8 or FP4"
            )
        if not self.symmetric and not self.format.is_integer:
            raise BadInput(
                f"a weight in {self.format} has no zero-point: use a symmetric scheme, "
                "or an integer format"
            )
        plain = self.scales is ScaleFormat.FP32 and self.format is not NumberFormat.FP4
        if not plain and (self.format, self.granularity, self.scales) not in _BLOCK_FLOATS:
            raise BadInput(
                f"weights in {self.format}, {self.granularity.kind}, with scales in {self.scales} "
                f"are no format: use FP4 in blocks of {NVFP4_BLOCK} with scales in E4M3 (NVFP4), "
                f"or FP4 or FP8 in blocks of {MX_BLOCK} with scales in E8M0 (MX)"
            )

    def stored_bits(self, outputs: int, inputs: int, of_scale: int = 32) -> int:
        """Return what a weight [outputs, inputs] takes, with so many bits a scale."""
        if isinstance(self.granularity, PerBlock):
            scales = outputs * -(-inputs // self.granularity.size)
        else:
            scales = outputs if isinstance(self.granularity, PerChannel) else 1
        return outputs * inputs * self.format.bits + of_scale * scales

    def tensor_scale(self, flat: NDArray[np.float32]) -> float | None:
        """Return the scale of NVFP4's scales, of a weight [outputs, inputs]; None for others."""
        if self.scales is not ScaleFormat.E4M3:
            return None
        largest = max(float(flat.max(initial=0.0)), -float(flat.min(initial=0.0)))
        return tensor_scale(min(largest, LARGEST))


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """One layer's weight, [outputs, inputs...] flattened to [outputs, inputs]."""

    format: NumberFormat
    # Quantized values, [outputs, inputs]: int8 for integer formats, float8_e4m3fn for FP8,
    # float4_e2m1fn for FP4.
    values: NDArray[np.generic]
    scales: NDArray[np.float32]  # [outputs, blocks]; [1, 1] per tensor; [outputs, 1] per channel
    zero_points: NDArray[np.int8] | None  # like scales; None is zero
    block: int | None  # inputs that share a scale; None: all of them
    shape: tuple[int, ...]  # of the weight as it was given
    tensor_scale: float | None = None  # of NVFP4: `scales` are E4M3 times it

    def dequantized(self) -> NDArray[np.float32]:
        """Return what the graph computes with, in the weight's own shape."""
        values = self.shifted()
        return (values * spread(self.scales, self.block, values.shape[1])).reshape(self.shape)

    def shifted(self) -> NDArray[np.float32]:
        """Return the quantized values less their zero-points, [outputs, inputs]."""
        values = self.values.astype(np.float32)
        if self.zero_points is not None:
            values -= spread(self.zero_points.astype(np.float32), self.block, values.shape[1])
        return values


def by_group(weight: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Return a weight [outputs, inputs, ...] as [groups, outputs, inputs, ...].

    It reads so many channels, in groups.
    """
    groups = channels // weight.shape[1]
    return weight.reshape(groups, len(weight) // groups, *weight.shape[1:])


def summed(weight: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Sum a weight [outputs, inputs, ...] over its kernel -> [outputs, channels].

    That is what it makes of a flat image.
    """
    if weight.ndim == 2:
        return weight
    groups = by_group(weight, channels)
    total = np.zeros((len(groups), groups.shape[1], len(groups), groups.shape[2]), np.float32)
    own = np.arange(len(groups))
    total[own, :, own] = groups.reshape(*groups.shape[:3], -1).sum(axis=-1, dtype=np.float64)
    return total.reshape(len(weight), channels)


def multiplied(
    weight: NDArray[np.float32], smoothing_scales: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Multiply the weight [outputs, inputs, ...] of a layer whose input [channels] was divided."""
    groups = by_group(weight, smoothing_scales.size)
    aligned = smoothing_scales.reshape(len(groups), 1, -1, *[1] * (weight.ndim - 2))
    scaled: NDArray[np.float32] = groups * aligned
    return scaled.reshape(weight.shape)


def quantize(weight: NDArray[np.float32], scheme: WeightScheme) -> QuantizedWeight:
    """Round a weight [outputs, inputs...] to the nearest quantized values."""
    flat = weight.reshape(len(weight), -1)
    block = block_size(scheme.granularity, flat.shape[1])
    scales, zero_points = qparams(flat, scheme)

    def rounded(outputs: slice) -> NDArray[np.generic]:
        own = slice(None) if len(scales) == 1 else outputs
        units = flat[outputs] / spread(scales[own], block, flat.shape[1])
        if zero_points is not None:
            units += spread(zero_points[own].astype(np.float32), block, flat.shape[1])
        return round_to_format(units, scheme.format)

    pieces = range(0, len(flat), OUTPUTS_AT_ONCE)
    values = np.concatenate([rounded(slice(start, start + OUTPUTS_AT_ONCE)) for start in pieces])
    whole = scheme.tensor_scale(flat)
    return QuantizedWeight(scheme.format, values, scales, zero_points, block, weight.shape, whole)


def qparams(
    flat: NDArray[np.float32], scheme: WeightScheme
) -> tuple[NDArray[np.float32], NDArray[np.int8] | None]:
    """Return scales and zero-points of a weight [outputs, inputs] -> [outputs, blocks].

    There are no zero-points where the scheme is symmetric. Asymmetric ones follow Jacob et al.,
    "Quantization and training of neural networks" (2018), section 2.1, with zero inside.
    """
    groups = grouped(flat, scheme.granularity)
    if scheme.symmetric:
        largest = np.minimum(np.maximum(groups.max(axis=-1), -groups.min(axis=-1)), LARGEST)
        scales, whole = positive(largest / scheme.format.largest), scheme.tensor_scale(flat)

        def stored(step: NDArray[np.float32]) -> Qparams:
            return stored_scales(step, scheme.scales, whole), None

        return (
            _least_error(groups, scales, stored, scheme.format)
            if scheme.clipped
            else stored(scales)
        )
    low = np.clip(groups.min(axis=-1).astype(np.float64), -LARGEST, 0.0)
    high = np.clip(groups.max(axis=-1).astype(np.float64), 0.0, LARGEST)
    scales = positive((high - low) / (2 * scheme.format.largest + 1))

    def with_zero(step: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int8] | None]:
        bottom = -scheme.format.largest - 1
        return step, np.clip(np.rint(bottom - low / step), bottom, scheme.format.largest).astype(
            np.int8
        )

    if scheme.clipped:
        return _least_error(groups, scales, with_zero, scheme.format)
    return with_zero(scales)


def block_size(granularity: Granularity, inputs: int) -> int | None:
    """Return how many inputs share a scale; None: all of a row, or of the tensor."""
    blocked = isinstance(granularity, PerBlock) and granularity.size < inputs
    return granularity.size if isinstance(granularity, PerBlock) and blocked else None


def grouped(flat: NDArray[np.float32], granularity: Granularity) -> NDArray[np.float32]:
    """Group weights that share a scale: [outputs, inputs] -> [rows, blocks, members].

    The last block is padded with zeros.
    """
    outputs, inputs = flat.shape
    match granularity:
        case PerTensor():
            return flat.reshape(1, 1, -1)
        case PerChannel():
            return flat.reshape(outputs, 1, inputs)
        case PerBlock(size):
            size = min(size, inputs)
            blocks = -(-inputs // size)
            padded = np.pad(flat, ((0, 0), (0, blocks * size - inputs)))
            return padded.reshape(outputs, blocks, size)


def spread(values: NDArray[np.float32], block: int | None, inputs: int) -> NDArray[np.float32]:
    """Repeat values per block [outputs, blocks] for each weight, [outputs, inputs].

    Without blocks they stay as they are.
    """
    return values if block is None else np.repeat(values, block, axis=1)[:, :inputs]


def positive(scales: NDArray[np.floating]) -> NDArray[np.float32]:
    """Replace scales that are not strictly positive by 1: those of channels of zeros."""
    return np.where(scales > SMALLEST_SCALE, scales, 1.0).astype(np.float32)


Qparams = tuple[NDArray[np.float32], NDArray[np.int8] | None]


def _least_error(
    groups: NDArray[np.float32],
    scales: NDArray[np.float32],
    complete: Callable[[NDArray[np.float32]], Qparams],
    format: NumberFormat,
) -> Qparams:
    """Return the shrunken scale of least squared rounding error per group.

    Groups are [rows, blocks, members].
    """
    best_scales, best_zero = complete(scales)
    least = _error(groups, best_scales, best_zero, format)
    for shrink in SHRINKS[1:]:
        tried, zero = complete((scales * np.float32(shrink)).astype(np.float32))
        error = _error(groups, tried, zero, format)
        better = error < least
        best_scales = np.where(better, tried, best_scales)
        if zero is not None and best_zero is not None:
            best_zero = np.where(better, zero, best_zero)
        least = np.where(better, error, least)
    return best_scales, best_zero


def _error(
    groups: NDArray[np.float32],
    scales: NDArray[np.float32],
    zero: NDArray[np.int8] | None,
    format: NumberFormat,
) -> NDArray[np.floating]:
    steps, offset = scales[..., None], 0.0 if zero is None else zero[..., None].astype(np.float32)
    values = round_to_format((groups / steps + offset).astype(np.float32), format)
    lost = widened(groups) - (values.astype(np.float32) - offset) * steps
    error: NDArray[np.floating] = np.square(lost).sum(axis=-1)
    return error
