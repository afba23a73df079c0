"""What observing costs on a CUDA device: one site, and a pass of a Llama of eight billion weights.

The model is random, in bfloat16, as large as Llama 3 8B; four inputs of each of its layers are
counted into histograms with every channel's extremes. `--quick` takes two layers and 2,048 tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness.table import Goal, ResultTable, column
from tasks.numerics import device_histogram
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.counting import Counted, count, start

if TYPE_CHECKING:
    import torch

NAME, TITLE = "gpu-observe", "Observing on a CUDA device"
GOAL = Goal("an observed pass over a plain one, times", 1.06, None, "at most")
WIDTH, WIDE, LAYERS, BATCH, TOKENS, WORDS = 4096, 14_336, 32, 8, 2048, 128_256
ROUNDS = 7


@dataclass(frozen=True, slots=True)
class CountingRow:
    """One way to count, or one pass."""

    what: str = column("what")
    milliseconds: float = column("ms", ".2f")
    rate: float | None = column("GB/s read", ".0f")
    ratio: float | None = column("x a plain pass", ".3f")
    same: str = column("counts")


def measure(quick: bool) -> ResultTable:
    """Measure sites first, then passes; without a device nothing is measured."""
    import torch

    if not torch.cuda.is_available():
        reason = f"no CUDA device is visible to torch {torch.__version__}: nothing was measured"
        return ResultTable(NAME, TITLE, [], [GOAL], [reason])
    layers, batch = (2, 1) if quick else (LAYERS, BATCH)
    sites = [row for width in (WIDTH, WIDE) for row in _sites(batch * TOKENS, width)]
    passes, goal = _passes(layers, batch)
    notes = [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}; "
        f"{layers} layers, {batch} x {TOKENS} tokens; medians of {ROUNDS}, by events"
    ]
    return ResultTable(NAME, TITLE, [*sites, *passes], [goal], notes)


def _sites(rows: int, channels: int) -> list[CountingRow]:
    """Count one site by each way, and hold its bins against torch's."""
    import torch

    from benchmarks.kernels import triton_counting

    values = torch.randn((rows, channels), device="cuda").bfloat16()
    wide = values.float()
    exact = device_histogram.count_by_torch(values.view(-1))
    ways: dict[str, tuple[torch.Tensor, Callable[[torch.Tensor], Any]]] = {
        "the kernel, BF16, with extremes": (values, lambda x: _kernel(x).bins),
        "the kernel, FP32, with extremes": (wide, lambda x: _kernel(x).bins),
        "count(), BF16, fetched": (values, lambda x: count(x, -1)),
        "torch's operators, FP32, no extremes": (
            wide,
            lambda x: device_histogram.count_by_torch(x.view(-1)),
        ),
        "Triton's histogram, BF16, no extremes": (values, triton_counting.histogram),
        "Triton's atomics, BF16, no extremes": (values, triton_counting.atomics),
        "a copy, BF16 (read and written)": (values, lambda x: x.clone()),
    }
    made = []
    for name, (tensor, way) in ways.items():
        taken = _milliseconds(lambda way=way, tensor=tensor: way(tensor))
        size = tensor.numel() * tensor.element_size() * (2 if name.startswith("a copy") else 1)
        what = f"{rows:,} x {channels:,}: {name}"
        made.append(CountingRow(what, taken, size / taken / 1e6, None, _same(way(tensor), exact)))
    return made


def _kernel(values: torch.Tensor) -> device_histogram.DeviceCounts:
    counted = device_histogram.count_matrix(values)
    if counted is None:
        raise RuntimeError("the kernel did not take what it was measured on")
    return counted


def _same(result: Any, exact: torch.Tensor) -> str:
    if isinstance(result, Counted):
        result = result.histogram
    if isinstance(result, ExponentHistogram):
        return "equal" if np.array_equal(result.counts, exact.cpu().numpy()) else "DIFFER"
    if result.shape != exact.shape:
        return ""
    return "equal" if bool((result == exact).all()) else "DIFFER"


def _passes(layers: int, batch: int) -> tuple[list[CountingRow], Goal]:
    """Time a plain pass and observed ones in turn: a card's clock drifts within seconds."""
    import torch

    model = _llama(layers)
    tokens = torch.randint(0, WORDS, (batch, TOKENS), device="cuda")

    def plain() -> None:
        with torch.no_grad():
            model.model(tokens, use_cache=False)

    ways = {
        "as the observer counts": _Overlapped(),
        "each count fetched at once": lambda x: count(x, -1),
        "by torch's operators, on FP32 copies": _by_torch,
    }
    before = _milliseconds(plain)
    rows = []
    for name, way in ways.items():
        hooks = [module.register_forward_pre_hook(_hook(way)) for module in _inputs_of(model)]
        observed = _milliseconds(plain)
        for hook in hooks:
            hook.remove()
        after = _milliseconds(plain)
        rows.append(
            CountingRow(f"a pass, {name}", observed, None, 2 * observed / (before + after), "")
        )
        before = after
    goal = Goal(GOAL.what, GOAL.target, rows[0].ratio, GOAL.direction)
    return [CountingRow("a plain pass", before, None, 1.0, ""), *rows], goal


class _Overlapped:
    """Fetches a site's counts once the next is queued, as `Observer` does."""

    def __init__(self) -> None:
        self._before: Callable[[], Counted] | None = None

    def __call__(self, values: torch.Tensor) -> None:
        counting = start(values, -1)
        if self._before is not None:
            self._before()
        self._before = counting


def _by_torch(values: torch.Tensor) -> None:
    wide = values.float()
    device_histogram.count_by_torch(wide.view(-1)).cpu()
    wide.view(-1, wide.shape[-1]).amin(0).cpu()
    wide.view(-1, wide.shape[-1]).amax(0).cpu()


def _hook(way: Callable[[torch.Tensor], Any]) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
    def observe(_module: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        way(arguments[0])

    return observe


def _inputs_of(model: Any) -> list[Any]:
    """Return one module for each of the four inputs of every layer."""
    return [
        module
        for layer in model.model.layers
        for module in (
            layer.self_attn.q_proj,
            layer.self_attn.o_proj,
            layer.mlp.gate_proj,
            layer.mlp.down_proj,
        )
    ]


def _llama(layers: int) -> Any:
    """Return a random Llama of Llama 3 8B's widths in bfloat16, made on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=WIDE,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def _milliseconds(run: Callable[[], Any]) -> float:
    """Return the median of a run's milliseconds between events on the stream."""
    import torch

    taken = []
    for number in range(ROUNDS + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        if number > 1:
            taken.append(begin.elapsed_time(end))
    return statistics.median(taken)
