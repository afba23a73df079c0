"""Counting where the values lie on a device, by one kernel that reads them once, or by torch.

The kernel bins the bits of float32 and bfloat16 as `tasks.numerics.histogram` does, and takes each
channel's extremes on the way. It is CUDA and no Triton: Triton's histogram has no say over where
its private copies lie (`python -m benchmarks gpu-observe` measures both).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.histogram import BINS

if TYPE_CHECKING:
    import torch

_VECTOR = 16  # bytes that one thread loads at a time
_THREADS = 1024
_BLOCKS_PER_PROCESSOR = 2
_SHARED = 8 * BINS * 4  # bytes: the eight copies of device_histogram.cu
_FLAT = 4096  # elements that a tensor without channels is cut into, a row each


@dataclass(frozen=True, slots=True, eq=False)
class DeviceCounts:
    """What one reading of a matrix [rows, channels] left on the device."""

    bins: torch.Tensor  # [2048], int64: by the bits of |x|, NaN by their payload
    extremes: torch.Tensor  # [2, channels], int16 or int32: bits of the largest and of the least


def decoded(
    extremes: NDArray[np.int16] | NDArray[np.int32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return least and largest values [channels] of the kernel's bits [2, channels], 0 among them.

    The second row has its signs turned. Of bfloat16 there are the upper 16 bits of a float32. A
    channel with a NaN has NaN for both.
    """
    bits = extremes.view(np.uint16 if extremes.dtype == np.int16 else np.uint32).astype(np.uint32)
    if extremes.dtype == np.int16:
        bits <<= np.uint32(16)
    high, low = bits[0].view(np.float32), (bits[1] ^ np.uint32(1 << 31)).view(np.float32)
    broken = np.isnan(low) | np.isnan(high)
    nan, zero = np.float32(np.nan), np.float32(0)
    # Zero is added because -0 is 0 wherever extremes are compared.
    return np.where(broken, nan, low) + zero, np.where(broken, nan, high) + zero


def count_matrix(rows: torch.Tensor) -> DeviceCounts | None:
    """Count a contiguous matrix [rows, channels] by the kernel; None where it cannot read it.

    It reads float32 and bfloat16 on CUDA devices, 16 bytes at a time: rows that are no whole
    number of them, or start elsewhere, are the caller's to count by torch.
    """
    launch = _kernel(rows)
    count, channels = rows.shape
    row_bytes = channels * rows.element_size()
    if launch is None or not rows.numel() or row_bytes % _VECTOR or rows.data_ptr() % _VECTOR:
        return None
    import torch

    vectors = row_bytes // _VECTOR
    tiles = -(-vectors // _THREADS)
    width = -(-vectors // tiles)
    at_once = _THREADS // width
    processors = torch.cuda.get_device_properties(rows.device).multi_processor_count
    deep = min(-(-processors * _BLOCKS_PER_PROCESSOR // tiles), -(-count // at_once))
    bits = torch.int16 if rows.dtype == torch.bfloat16 else torch.int32
    with torch.cuda.device(rows.device):
        bins = torch.zeros(BINS, dtype=torch.int64, device=rows.device)
        slots = torch.empty((deep * at_once, 2, channels), dtype=bits, device=rows.device)
        launch(
            grid=(tiles, deep, 1),
            block=(_THREADS, 1, 1),
            args=[rows, count, vectors, width, bins, slots],
            shared_mem=_SHARED,
        )
        return DeviceCounts(bins, slots.amax(0))


def count_bins(flat: torch.Tensor) -> torch.Tensor:
    """Count a contiguous vector of float32 or bfloat16 into bins [2048], int64, on its device."""
    whole = flat.numel() // _FLAT * _FLAT
    counted = count_matrix(flat[:whole].view(-1, _FLAT)) if flat.is_cuda and whole else None
    if counted is None:
        return count_by_torch(flat)
    return counted.bins + count_by_torch(flat[whole:])


def count_by_torch(flat: torch.Tensor) -> torch.Tensor:
    """Count a contiguous vector into bins [2048], int64, by torch's own operators anywhere."""
    import torch

    bits = torch.bitwise_right_shift(flat.float().view(torch.int32), BINS_SHIFT)
    return torch.bincount(torch.bitwise_and(bits, BINS - 1), minlength=BINS)


BINS_SHIFT = 20
"""Bits of a float32 below those that choose its bin."""


def _kernel(values: torch.Tensor) -> Callable[..., None] | None:
    """Return the kernel for the values' type on their device; None where there is none."""
    import torch

    names = {torch.float32: "count_float32", torch.bfloat16: "count_bfloat16"}
    if not values.is_cuda or torch.version.hip or values.dtype not in names:
        return None
    return _compiled(names[values.dtype], values.device.index)


@cache
def _compiled(name: str, device: int) -> Callable[..., None] | None:
    """Compile one kernel for a device, once a process, by the compiler that torch brings.

    A torch without that (unstable) interface counts by its operators.
    """
    import torch

    compile_kernel: Any = getattr(torch.cuda, "_compile_kernel", None)
    if compile_kernel is None:
        return None
    source = resources.files("tasks.numerics").joinpath("device_histogram.cu").read_text()
    with torch.cuda.device(device):
        kernel = compile_kernel(source, name)
        kernel.set_shared_memory_config(_SHARED)
    launch: Callable[..., None] = kernel
    return launch
