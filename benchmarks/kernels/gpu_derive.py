"""Deriving a Llama of eight billion random weights on a CUDA device, from disk to disk.

`--quick` takes two layers and 8 windows. Run where 45 GB of disk are free.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.language import random_llama
from tasks.models.checkpoints.stored import StoredCheckpoint
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.streamed.derive import derive

if TYPE_CHECKING:
    import torch

NAME, TITLE = "gpu-derive", "A Llama of eight billion weights, layer by layer, on a CUDA device"
WINDOWS, TOKENS, JUDGED = 128, 2048, 2
RECIPES = ("int8-smooth", "int4-gptq", "fp8", "int4-block-32")
GOALS = {
    "int8-smooth": Goal("minutes of static INT8, smoothed:", 5, None, "at most"),
    "int4-gptq": Goal("minutes of INT4 by GPTQ:", 12, None, "at most"),
}


@dataclass(frozen=True, slots=True)
class DerivationRow:
    """One recipe."""

    recipe: str = column("recipe")
    seconds: float = column("s", ".0f")
    reading: float = column("s a layer, median", ".2f")
    device: float = column("GB of the device at most", ".1f")
    size: float = column("bytes over the checkpoint's", ".3f")
    agreement: float = column("same next token", ".3f")


def measure(quick: bool) -> ResultTable:
    """Write the checkpoint, then derive each recipe; without a device nothing is measured."""
    import torch

    if not torch.cuda.is_available():
        reason = f"no CUDA device is visible to torch {torch.__version__}: nothing was measured"
        return ResultTable(NAME, TITLE, [], list(GOALS.values()), [reason])
    shape = random_llama.LLAMA_3_8B
    if quick:
        shape = replace(shape, layers=2)
    random = torch.Generator().manual_seed(0)
    windows = 8 if quick else WINDOWS
    ids = torch.randint(0, shape.words, (windows + JUDGED, TOKENS), generator=random)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "checkpoint"
        source.mkdir()
        begun = perf_counter()
        random_llama.write(source, shape)
        sys.stderr.write(f"checkpoint written in {perf_counter() - begun:.0f} s\n")
        for recipe in RECIPES:
            row = _derived(source, Path(name) / "out", recipe, ids[:windows], ids[windows:])
            sys.stderr.write(f"{row}\n")
            rows.append(row)
    notes = [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}; "
        f"{shape.weights / 1e9:.2f} billion weights in bfloat16, {shape.layers} layers; "
        f"{windows} x {TOKENS} tokens to calibrate, {JUDGED} x {TOKENS} to judge. The seconds hold "
        "reading, observing, smoothing, rounding, judging and writing."
    ]
    by_recipe = {row.recipe: row for row in rows}
    goals = [
        Goal(goal.what, goal.target, by_recipe[recipe].seconds / 60, goal.direction)
        for recipe, goal in GOALS.items()
    ]
    return ResultTable(NAME, TITLE, rows, goals, notes)


def _derived(
    source: Path, output: Path, name: str, ids: torch.Tensor, judged: torch.Tensor
) -> DerivationRow:
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    moments = [perf_counter()]
    made = derive(
        StoredCheckpoint(source),
        output,
        find_recipe(name),
        ids,
        {"random": judged},
        device="cuda",
        told=lambda layer, of: moments.append(perf_counter()),
    )
    took = sorted(later - earlier for earlier, later in pairwise(moments[1:]))
    peak = torch.cuda.max_memory_allocated() / 1e9
    shutil.rmtree(output)
    agreement = made.judged[0].agreement
    return DerivationRow(name, made.seconds, took[len(took) // 2], peak, made.size_ratio, agreement)
