"""A Llama of eight billion random weights, on a machine that does not hold its graph.

Checkpoint and results take 30 GB of disk at most. `--quick` takes two layers.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.harness.watched import watched
from benchmarks.language import random_llama

NAME, TITLE = "llm-8b", "A Llama of eight billion weights on the CPU, layer by layer"
WINDOWS, TOKENS = 16, 256
RECIPES = ("int4-block-32", "int8-max")
MOST_GB = 16


@dataclass(frozen=True, slots=True)
class LargeRow:
    """One recipe."""

    recipe: str = column("recipe")
    resident: float = column("peak, GB", ".2f")
    anonymous: float = column("of it not in files, GB", ".2f")
    estimated: float = column("estimated, GB", ".2f")
    seconds: float = column("s", ".0f")
    size: float = column("bytes over the checkpoint's", ".3f")


def measure(quick: bool) -> ResultTable:
    """Write the checkpoint, and derive each recipe in a process of its own."""
    shape = random_llama.LLAMA_3_8B
    shape = replace(shape, layers=2) if quick else shape
    rows = []
    with tempfile.TemporaryDirectory() as name:
        source, path = Path(name) / "checkpoint", Path(name) / "ids.npy"
        source.mkdir()
        random_llama.write(source, shape)
        np.save(path, np.random.default_rng(0).integers(0, shape.words, (WINDOWS, TOKENS)))
        for recipe in RECIPES:
            row = derived(source, path, recipe)
            sys.stderr.write(f"{row}\n")
            rows.append(row)
    goals = [Goal(f"GB at most, {row.recipe}", MOST_GB, row.resident, "at most") for row in rows]
    notes = (
        f"{shape.weights / 1e9:.2f} billion weights in bfloat16, {shape.layers} layers; "
        f"{WINDOWS} x {TOKENS} tokens to calibrate where a recipe learns.",
    )
    return ResultTable(NAME, TITLE, rows, goals, notes)


def derived(source: Path, ids: Path, recipe: str) -> LargeRow:
    """Derive a recipe from a checkpoint in a process of its own; the result is removed."""
    output = source.parent / recipe
    command = [sys.executable, "-m", "benchmarks.language.one_derivation"]
    ran = watched([*command, str(source), str(ids), str(output), recipe])
    told = json.loads(ran.output.splitlines()[-1])
    shutil.rmtree(output)
    return LargeRow(
        recipe,
        ran.resident / 1e9,
        ran.anonymous / 1e9,
        told["estimated"] / 1e9,
        ran.seconds,
        told["size"],
    )
