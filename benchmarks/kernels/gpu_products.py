"""How fast a CUDA device multiplies INT8 and FP8 beside BF16, by the number of rows.

The matrices are a Llama 3 8B's: columns of the weight by its rows. Both short formats take scales
for a whole tensor; quantizing the activations is not in the time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.table import ResultTable, column

NAME, TITLE = "gpu-products", "Matrix products on a CUDA device, times BF16's speed"
MATRICES = ((4096, 4096), (14_336, 4096), (4096, 14_336))
ROWS = (16, 128, 2048, 16_384)
ROUNDS = 21


@dataclass(frozen=True, slots=True)
class ProductRow:
    """One product: rows x inputs by inputs x outputs."""

    what: str = column("rows, outputs x inputs")
    bf16: float = column("BF16, ms", ".3f")
    int8: float | None = column("INT8, x", ".2f")
    fp8: float | None = column("FP8, x", ".2f")


def measure(quick: bool) -> ResultTable:
    """Time every product; without a device nothing is measured."""
    import torch

    if not torch.cuda.is_available():
        reason = f"no CUDA device is visible to torch {torch.__version__}: nothing was measured"
        return ResultTable(NAME, TITLE, [], (), [reason])
    rows = [
        _product(count, *shape) for shape in MATRICES for count in (ROWS[:2] if quick else ROWS)
    ]
    notes = [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; medians of {ROUNDS} by "
        "events, random operands, a cold cache; what torch refuses is left open"
    ]
    return ResultTable(NAME, TITLE, rows, (), notes)


def _product(rows: int, outputs: int, inputs: int) -> ProductRow:
    import torch

    x = torch.randn((rows, inputs), device="cuda").bfloat16()
    weight = torch.randn((outputs, inputs), device="cuda").bfloat16()
    half = _milliseconds(lambda: x @ weight.T)
    levels = (x * 30).to(torch.int8), (weight * 30).to(torch.int8)
    short = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn)
    one = torch.ones((), device="cuda")
    scaled: Any = torch._scaled_mm
    return ProductRow(
        f"{rows:,}, {outputs:,} x {inputs:,}",
        half,
        _speed(half, lambda: torch._int_mm(levels[0], levels[1].T)),
        _speed(
            half,
            lambda: scaled(
                short[0], short[1].T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16
            ),
        ),
    )


def _speed(half: float, run: Callable[[], Any]) -> float | None:
    """Return how many times as fast it is; None where torch refuses it."""
    try:
        return half / _milliseconds(run)
    except RuntimeError:
        return None


def _milliseconds(run: Callable[[], Any]) -> float:
    """Return the median of a run's milliseconds over a cold cache."""
    import torch

    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    taken = []
    for number in range(ROUNDS + 3):
        flush.zero_()  # a weight that stays in the cache between runs flatters few rows
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        if number >= 3:
            taken.append(begin.elapsed_time(end))
    return statistics.median(taken)
