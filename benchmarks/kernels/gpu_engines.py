"""How fast MiniLM's engines are on a CUDA device, by precision and batch, and what ran in which.

Each is the product's own: derived by a recipe, built and loaded by the target `onnxruntime-cuda`,
and timed in turns until its outputs are in host memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import ours, subject
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import ResultTable, column
from infra.engines import open_target
from infra.engines.port import Arrays, Engine, Target
from infra.errors import Unavailable
from tasks.quantization.recipe.catalog import find_recipe

NAME, TITLE, TARGET = "gpu-engines", "MiniLM's engines on a CUDA device", "onnxruntime-cuda"
EXACT, FULL = "full precision, without TF32", "full precision"
RECIPES = ("fp16", "fp16-whole", "bf16", "int4-block-32", "int8-max")
SHAPES = ((1, 16), (32, 128), (256, 128))
WORDS = (1000, 20_000)
"""Tokens are drawn from these."""


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine at three batches."""

    what: str = column("engine")
    products: str = column("its matrix products")
    one: float = column("ms, 1 x 16", ".2f")
    one_speed: float = column("x FP32", ".2f")
    some: float = column("ms, 32 x 128", ".2f")
    some_speed: float = column("x FP32", ".2f")
    many: float = column("ms, 256 x 128", ".2f")
    many_speed: float = column("x FP32", ".2f")


def measure(quick: bool) -> ResultTable:
    """Derive, build and time; without a device nothing is measured."""
    try:
        target = open_target(TARGET)
    except Unavailable as exc:
        return ResultTable(NAME, TITLE, [], (), [f"{exc}: nothing was measured"])
    return compare(target, subject.minilm(quick=True), rounds=9 if quick else 31)


def compare(target: Target, chosen: Subject, rounds: int) -> ResultTable:
    """Time all engines of one model on a target, in turns."""
    profile = chosen.inputs.profile
    engines: dict[str, Engine] = {EXACT: target.load_exact(chosen.source, profile)}
    products = {EXACT: "FLOAT"}
    observed = ours.observe(chosen)
    for name in (FULL, *RECIPES):
        plan = chosen.source
        if name != FULL:
            made = ours.derived(chosen, find_recipe(name), observed)
            plan = made.lowered(target.form)
        built = target.build(plan, profile)
        products[name] = _products(target, built.layers)
        engines[name] = target.load(built.plan, built.metadata)
    times = [_timed(engines, _feeds(chosen, *shape), rounds) for shape in SHAPES]
    rows = [
        EngineRow(
            name,
            products[name],
            *(value for taken in times for value in (taken[name], taken[FULL] / taken[name])),
        )
        for name in engines
    ]
    notes = [f"medians of {rounds} turns; copies there and back are in each"]
    return ResultTable(NAME, TITLE, rows, (), notes)


def _products(target: Target, layers: bytes) -> str:
    """Count what the weights' products ran in: FP16 36, FLOAT 1."""
    kinds = {layer["name"]: layer["type"] for layer in json.loads(layers)["layers"]}
    ran = Counter(
        kernel.precision
        for kernel in target.kernels(layers, None) or ()
        if kernel.nodes and kinds.get(kernel.name, "") in ("MatMul", "Gemm", "MatMulNBits")
    )
    return ", ".join(f"{count} {precision}" for precision, count in ran.most_common())


def _feeds(chosen: Subject, texts: int, tokens: int) -> Arrays:
    """Draw tokens without padding for whatever inputs the graph has."""
    rng = np.random.default_rng(0)
    names = [item.name for item in chosen.model.graph.input]
    shape = (texts, tokens)
    return {
        name: rng.integers(*WORDS, shape)
        if "input" in name
        else np.full(shape, int("mask" in name), np.int64)
        for name in names
    }


def _timed(engines: Mapping[str, Engine], feeds: Arrays, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each, after three runs that are not counted."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 3):
        for name, engine in engines.items():
            milliseconds = float(engine.time_runs(feeds, 1)[0])
            if number >= 3:
                taken[name].append(milliseconds)
    return {name: float(np.median(values)) for name, values in taken.items()}
