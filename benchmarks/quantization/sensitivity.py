"""Which sites INT8 harms most.

The rankings stand against quantizing one site after the other in an engine of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import process_time

import numpy as np
from scipy.stats import spearmanr

from benchmarks.harness import ours, subject
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import Goal, ResultTable, column
from infra.engines import open_target
from tasks.models.inputs import run_all
from tasks.observation.observer import SiteObservation
from tasks.quantization.graph import qdq
from tasks.quantization.graph.assemble import assemble
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.losses import measure_losses
from tasks.quantization.pipeline.tuning import Tuned, tune
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.submodules import submodules
from tasks.quantization.sensitivity.measure import Losses, by_submodule, output_loss, spread
from tasks.records import Payload

RECIPES = ("int8-max", "int8-smooth")
ONE_IN = 5
"""The measured ranking sees one calibration text in so many."""
LOCAL, MEASURED, EXHAUSTIVE = (
    "local error on observed rows",
    "one toggled graph",
    "one engine a site",
)


@dataclass(frozen=True, slots=True)
class RankingRow:
    """Figures of one way to rank the sites."""

    recipe: str = column("recipe")
    name: str = column("ranking by")
    correlation: float = column("Spearman", ".3f")
    top: float | None = column("worst 4 found", ".0%")
    runs: int = column("runs", "d")
    passes: float | None = column("FP32 passes", ".1f")
    seconds: float | None = column("CPU s", ".1f")


@dataclass(frozen=True, slots=True)
class Timed:
    """What a ranking found, and the CPU seconds that it took.

    Wall time would be that of whoever shares the cores.
    """

    losses: Mapping[str, float]
    seconds: float
    runs: int


def measure(quick: bool) -> ResultTable:
    """Measure MiniLM, calibrated and ranked on English.

    The exhaustive ranking runs over all English held-out cases.
    """
    return compare(subject.minilm(quick), RECIPES)


def compare(chosen: Subject, recipes: Sequence[str]) -> ResultTable:
    """Compare all rankings of all recipes."""
    judged = next(iter(chosen.held_out.values()))
    once = _pass(chosen, chosen.calibration)
    rows: list[RankingRow] = []
    notes = [f"{chosen.name}: {len(chosen.calibration)} calibration cases, {len(judged)} held out."]
    for name in recipes:
        ranking_rows, note = _rankings(chosen, find_recipe(name), judged, once)
        rows += ranking_rows
        notes.append(note)
    mine = [row for row in rows if row.name == MEASURED]
    goals = [
        Goal(f"rank correlation of {row.recipe} with the exhaustive ranking", 0.9, row.correlation)
        for row in mine
    ]
    most = max(row.passes for row in mine if row.passes is not None)
    goals.append(Goal("passes over the calibration set in full precision", 10, most, "at most"))
    return ResultTable("sensitivity", "Ranking the sites by what INT8 costs", rows, goals, notes)


def _rankings(
    chosen: Subject, recipe: Recipe, judged: Sequence[Payload], once: float
) -> tuple[list[RankingRow], str]:
    observed = ours.observe(chosen)
    tuned = tune(chosen.model, chosen.sites, observed, recipe, None)
    local = Timed({item.site: item.error for item in tuned.ranking}, 0.0, 0)
    losses, toggled = toggled_losses(chosen, observed, recipe, tuned)
    exhaustive = one_engine_a_site(chosen, observed, recipe, tuned, judged)
    rows = [
        _row(recipe, name, ranking, exhaustive, once)
        for name, ranking in ((LOCAL, local), (MEASURED, toggled))
    ]
    return [*rows, _row(recipe, EXHAUSTIVE, exhaustive, exhaustive, once)], _by_submodule(
        chosen, recipe, losses
    )


def _row(recipe: Recipe, name: str, timed: Timed, truth: Timed, once: float) -> RankingRow:
    sites = list(truth.losses)
    correlation = spearmanr(
        [timed.losses[site] for site in sites], [truth.losses[site] for site in sites]
    ).statistic
    worst = [
        set(sorted(sites, key=lambda site: -side[site])[:4])
        for side in (timed.losses, truth.losses)
    ]
    top = len(worst[0] & worst[1]) / len(worst[1])
    measured = timed.runs > 0
    passes, seconds = (timed.seconds / once, timed.seconds) if measured else (None, None)
    return RankingRow(recipe.name, name, float(correlation), top, timed.runs, passes, seconds)


def toggled_losses(
    chosen: Subject, observed: Mapping[str, SiteObservation], recipe: Recipe, tuned: Tuned
) -> tuple[Losses, Timed]:
    """Measure every part on some calibration cases as the product does.

    The time includes loading the graph.
    """
    started = process_time()
    losses = measure_losses(
        chosen.model,
        chosen.sites,
        observed,
        recipe,
        tuned,
        chosen.inputs,
        chosen.spec.task,
        spread(chosen.calibration, max(len(chosen.calibration) // ONE_IN, 1)),
        others=True,
    )
    return losses, Timed(losses.parts, process_time() - started, len(losses.parts) + 2)


def one_engine_a_site(
    chosen: Subject,
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    tuned: Tuned,
    payloads: Sequence[Payload],
) -> Timed:
    """Measure the truth: the loss of quantizing every site alone.

    Each site's Q/DQ graph is written, lowered, and run over every payload.
    """
    started, names = process_time(), [site.name for site in chosen.sites]
    exact = run_all(chosen.reference, chosen.inputs, payloads)
    losses = {}
    for name in names:
        others = [other for other in names if other != name]
        plan = assemble(chosen.model, chosen.sites, observed, recipe, tuned.choices, others)
        engine = open_target("onnxruntime-cpu").load(
            lower(qdq.write(plan), "u8").SerializeToString()
        )
        outputs = run_all(engine, chosen.inputs, payloads)
        losses[name] = float(output_loss(chosen.spec.task, exact, outputs).mean())
    return Timed(losses, process_time() - started, len(names) + 1)


def _pass(chosen: Subject, payloads: Sequence[Payload], rounds: int = 3) -> float:
    """Return the CPU seconds of one full-precision pass, the median of `rounds`."""
    seconds = []
    for _ in range(rounds):
        started = process_time()
        run_all(chosen.reference, chosen.inputs, payloads)
        seconds.append(process_time() - started)
    return float(np.median(seconds))


def _by_submodule(chosen: Subject, recipe: Recipe, losses: Losses) -> str:
    groups = by_submodule(losses, submodules(chosen.sites))
    listing = ", ".join(f"{group.name} {group.loss:.2g} ({group.parts})" for group in groups)
    return (
        f"{recipe.name}: loss by submodule (parts): {listing}; "
        f"all sites together {losses.together:.2g}."
    )
