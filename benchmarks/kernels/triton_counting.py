"""The peer of the counting kernel: what Triton offers for a histogram of bfloat16's bits.

It is imported only where a device is visible.
"""

import torch
import triton
import triton.language as tl

BINS = tl.constexpr(2048)
_TILE, _TILES = 8192, 4


@triton.jit
def _by_histogram(x, out, size, tile: tl.constexpr, tiles: tl.constexpr):  # type: ignore[no-untyped-def]
    counts = tl.zeros((BINS,), tl.int32)
    for index in range(tiles):
        places = (tl.program_id(0) * tiles + index) * tile + tl.arange(0, tile)
        bits = tl.load(x + places, mask=places < size, other=0).to(tl.int32)
        counts += tl.histogram((bits >> 4) & 0x7FF, BINS, mask=places < size)
    tl.atomic_add(out + tl.arange(0, BINS), counts)


@triton.jit
def _by_atomics(  # type: ignore[no-untyped-def]
    x, out, size, copies: tl.constexpr, tile: tl.constexpr, tiles: tl.constexpr
):
    mine = out + (tl.program_id(0) % copies) * BINS
    for index in range(tiles):
        places = (tl.program_id(0) * tiles + index) * tile + tl.arange(0, tile)
        bits = tl.load(x + places, mask=places < size, other=0).to(tl.int32)
        tl.atomic_add(mine + ((bits >> 4) & 0x7FF), 1, mask=places < size, sem="relaxed")


def histogram(values: torch.Tensor) -> torch.Tensor:
    """Count bfloat16 values into bins [2048] by `tl.histogram`."""
    bits = values.view(torch.int16).reshape(-1)
    out = torch.zeros(2048, dtype=torch.int32, device=values.device)
    grid = (triton.cdiv(bits.numel(), _TILE * _TILES),)
    _by_histogram[grid](bits, out, bits.numel(), _TILE, _TILES, num_warps=8)
    return out


def atomics(values: torch.Tensor, copies: int = 528) -> torch.Tensor:
    """Count bfloat16 values into bins [2048] by adding to private copies in device memory."""
    bits = values.view(torch.int16).reshape(-1)
    out = torch.zeros((copies, 2048), dtype=torch.int32, device=values.device)
    grid = (triton.cdiv(bits.numel(), 2048 * 8),)
    _by_atomics[grid](bits, out, bits.numel(), copies, 2048, 8)
    return out.sum(0)
