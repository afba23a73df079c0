"""Counting one site's values, where they lie: NumPy in host memory, torch on the device.

Both count the same bits. The same values give the same counts, extremes and rows, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.device_histogram import count_bins, count_matrix, decoded
from tasks.numerics.histogram import ExponentHistogram, with_one_nan

if TYPE_CHECKING:
    import torch

Values: TypeAlias = "NDArray[np.float32] | torch.Tensor"
"""Activations on the host, or float32 or bfloat16 on a device."""


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """What one tensor adds to an observation, in host memory."""

    histogram: ExponentHistogram
    low: NDArray[np.float32]  # [channels], at most 0
    high: NDArray[np.float32]  # [channels], at least 0
    broken: (
        NDArray[np.int64] | None
    )  # infinities and NaN of each entry of the first axis; None where there are none


def count(values: Values, channel_axis: int) -> Counted:
    """Count values [cases, ...] into a histogram, with extremes per channel.

    Channels are the last axis (-1) or the second (1).
    """
    return start(values, channel_axis)()


def start(values: Values, channel_axis: int) -> Callable[[], Counted]:
    """Start to count values as `count` does, and return what waits for the result.

    A device counts on while the caller queues more work behind it; it must not change the values
    before it has the result.
    """
    if isinstance(values, np.ndarray):
        counted = _count_on_host(values, channel_axis)
        return lambda: counted
    return _start_on_device(values, channel_axis)


def divide(values: Values, smoothing_scales: NDArray[np.float32], channel_axis: int = -1) -> Values:
    """Divide values by smoothing scales [channels] along the channel axis (-1 or 1).

    The quotient is correctly rounded on either side.
    """
    if channel_axis == 1:
        smoothing_scales = smoothing_scales.reshape(-1, *[1] * (values.ndim - 2))
    if isinstance(values, np.ndarray):
        return values / smoothing_scales
    return values / _beside(smoothing_scales, values)


def take(values: Values, places: NDArray[np.intp]) -> Values:
    """Take some rows, where they lie."""
    return values[places] if isinstance(values, np.ndarray) else values[_beside(places, values)]


def take_pixels(values: Values, places: NDArray[np.intp]) -> Values:
    """Take the channels of some pixels of images [cases, channels, ...] -> [places, channels].

    Places are counted case by case.
    """
    pixels = math.prod(values.shape[2:])
    flat = values.reshape(len(values), values.shape[1], pixels)
    case, pixel = np.divmod(places, max(pixels, 1))
    if isinstance(flat, np.ndarray):
        return flat[case, :, pixel]
    return flat[_beside(case, flat), :, _beside(pixel, flat)]


def on_host(values: Values) -> NDArray[np.float32]:
    """Return the values in host memory, with one NaN for all.

    The sign and payload of a NaN depend on who computed it.
    """
    array = values if isinstance(values, np.ndarray) else np.asarray(values.float().cpu().numpy())
    return np.where(np.isnan(array), np.float32(np.nan), array)


def _count_on_host(values: NDArray[np.float32], channel_axis: int) -> Counted:
    axes = _others(values.ndim, channel_axis)
    low, high = (
        on_host(values.min(axis=axes, initial=0.0)),
        on_host(values.max(axis=axes, initial=0.0)),
    )
    histogram = ExponentHistogram.of(values, _largest(low, high))
    broken = None
    if histogram.nonfinite:
        broken = (~np.isfinite(values)).reshape(len(values), -1).sum(axis=1)
    return Counted(histogram, low, high, broken)


def fetch(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Queue a copy to host memory, and return what waits for it and for nothing queued later."""
    import torch

    if not tensor.is_cuda:
        return lambda: tensor
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    there.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    copied.record(torch.cuda.current_stream(tensor.device))

    def wait() -> torch.Tensor:
        copied.synchronize()
        return there

    return wait


def _start_on_device(values: torch.Tensor, channel_axis: int) -> Callable[[], Counted]:
    """Count as on the host: integers add exactly in any order, so that threads change nothing."""
    values = values.contiguous()
    rows = None
    if channel_axis % values.ndim == values.ndim - 1 and values.is_cuda:
        rows = count_matrix(values.view(-1, values.shape[-1])) if values.numel() else None
    if rows is not None:
        bins, bits = fetch(rows.bins), fetch(rows.extremes)
        return lambda: _counted(values, bins(), *decoded(bits().numpy()))
    bins = fetch(count_bins(values.view(-1)))
    low, high = map(fetch, _extremes(values, _others(values.ndim, channel_axis)))
    return lambda: _counted(values, bins(), on_host(low()), on_host(high()))


def _counted(
    values: torch.Tensor,
    bins: torch.Tensor,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
) -> Counted:
    """Add up what was fetched; only infinities and NaN make it read the values again."""
    import torch

    counts, largest = with_one_nan(bins.numpy()), _largest(low, high)
    if not np.isfinite(largest):
        finite = values[torch.isfinite(values)]
        largest = float(finite.abs().max()) if finite.numel() else 0.0
    histogram = ExponentHistogram(counts, largest)
    broken = None
    if histogram.nonfinite:
        broken = (~torch.isfinite(values)).reshape(len(values), -1).sum(dim=1).cpu().numpy()
    return Counted(histogram, low, high, broken)


def _extremes(values: torch.Tensor, axes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the largest value per channel, with 0 among them."""
    import torch

    channels = [size for axis, size in enumerate(values.shape) if axis not in axes]
    zeros = torch.zeros(channels, dtype=values.dtype, device=values.device)
    if not values.numel():
        return zeros, zeros
    return torch.minimum(values.amin(axes), zeros), torch.maximum(values.amax(axes), zeros)


def _largest(low: NDArray[np.float32], high: NDArray[np.float32]) -> float:
    return float(max(high.max(initial=0.0), -low.min(initial=0.0)))


def _others(dimensions: int, channel_axis: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(dimensions) if axis != channel_axis % dimensions)


def _beside(array: NDArray[np.generic], values: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(values.device)
