"""A language model of real size with weights in four bits, on ONNX Runtime.

By the product's own functions from an observation to a graph, beside ONNX Runtime's quantizer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import onnx

from benchmarks.harness import ours
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.language import smollm2
from benchmarks.language.drift import (
    AWAY,
    CODE,
    FULL,
    HOME,
    QUICK,
    DriftMaterial,
    Observed,
    judged,
    open_material,
)
from benchmarks.language.held_out import BLOCK, INT4, MIXED, RTN, peers
from infra.engines import open_target
from infra.weights.naming import whole_size
from tasks.observation.observer import MANY_ROWS
from tasks.quantization.graph.lowering import lower
from tasks.quantization.measuring import SENSITIVITY_CASES
from tasks.quantization.pipeline.losses import measure_losses
from tasks.quantization.pipeline.tuning import tune, tuning_recipe
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.sensitivity.measure import Losses, spread

NAME, TITLE = "llm-int4", "A language model in four bits: perplexity over full precision's"
MOST = 1.05
BITS = ("int4-4.5-bits", "int4-5.5-bits", "int4-6-bits", "int4-7-bits")


@dataclass(frozen=True, slots=True)
class FourBitsRow:
    """One contender; ratios are to full precision's perplexity, 1 is none lost."""

    name: str = column("contender")
    home: float = column("on en, as calibrated", ".3f")
    away: float = column("on ja", ".3f")
    code: float = column("on code", ".3f")
    agreement: float = column("agreement on en", ".3f")
    megabytes: float = column("MB", ".2f")
    seconds: float = column("s to derive", ".0f")


def measure(quick: bool) -> ResultTable:
    """Measure every recipe from one observation of English text, on SmolLM2 where it is there."""
    sizes, has_real = QUICK if quick else FULL, smollm2.is_installed() and not quick
    material = open_material(sizes, real=has_real)
    rows = []
    for row in _rows(material, (INT4[-1],) if quick else (*INT4, MIXED, *BITS)):
        sys.stderr.write(f"{row}\n")
        rows.append(row)
    counted = (
        f"{material.subject.name}: blocks of {BLOCK}; {sizes.calibration} windows of "
        f"{sizes.tokens} tokens to calibrate, {sizes.judged} of each kind to judge."
    )
    notes = (counted,) if has_real or quick else (counted, smollm2.MISSING)
    return ResultTable(NAME, TITLE, rows, _goals(rows), notes)


def _rows(material: DriftMaterial, recipes: Sequence[str]) -> Iterator[FourBitsRow]:
    chosen = replace(material.subject, calibration=material.calibration[HOME])
    observed, learned = ours.observe(chosen), ours.observe(chosen, MANY_ROWS)
    for name in recipes:
        recipe = find_recipe(name)
        losses = _losses(chosen, recipe, observed) if recipe.raised else None
        made = ours.derived(chosen, recipe, observed, many_rows=learned, losses=losses)
        yield _row(material, name, lower(made.graph, "u8"), made.clock.total)
    begun = perf_counter()
    peer = peers(True)[RTN](chosen)
    yield _row(material, RTN, peer, perf_counter() - begun)


def _losses(chosen: Subject, recipe: Recipe, observed: Observed) -> Losses:
    """Measure what each site alone costs, on as many cases as a run does."""
    tuned = tune(chosen.model, chosen.sites, observed, tuning_recipe(recipe), None)
    cases = spread(chosen.calibration, SENSITIVITY_CASES)
    of = (chosen.model, chosen.sites, observed, recipe, tuned, chosen.inputs, chosen.spec.task)
    return measure_losses(*of, cases, others=False)


def _row(material: DriftMaterial, name: str, graph: onnx.ModelProto, seconds: float) -> FourBitsRow:
    plan = graph.SerializeToString()
    engine = open_target("onnxruntime-cpu").load(plan)
    ratios, agreements = judged(material, engine)
    size = whole_size(plan) / 1e6
    return FourBitsRow(
        name, ratios[HOME], ratios[AWAY], ratios[CODE], agreements[HOME], size, seconds
    )


def _goals(rows: Sequence[FourBitsRow]) -> tuple[Goal, ...]:
    ratios = {row.name: row.home for row in rows}
    gptq = ratios[INT4[-1]]
    return (
        Goal("perplexity over full precision's, int4-gptq:", MOST, gptq, "at most"),
        Goal("the same over ONNX Runtime's nearest:", 1.0, gptq / ratios[RTN], "at most"),
    )
