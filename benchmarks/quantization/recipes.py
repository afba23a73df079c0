"""Every recipe on MiniLM: what it costs and what it loses.

It is the table of docs/recipes.md.
"""

from dataclasses import dataclass

from benchmarks.harness import ours, subject
from benchmarks.harness.subject import Subject
from benchmarks.harness.table import ResultTable, column, reason
from benchmarks.harness.turns import time_plans
from benchmarks.quantization.fidelity import accepted, closeness
from benchmarks.quantization.latency import full_texts
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.targets import ONNXRUNTIME, why_not

FULL = "full-precision"
TITLE = (
    "Every recipe, MiniLM: cosine to FP32 on held-out cases, size, "
    "and speed at batch 8 × 64 on ONNX Runtime CPU"
)


@dataclass(frozen=True, slots=True)
class RecipeRow:
    """Figures of one recipe."""

    name: str = column("recipe")
    mean: float | None = column("mean", ".4f")
    least: float | None = column("min", ".4f")
    other_mean: float | None = column("mean, others", ".4f")
    other_least: float | None = column("min, others", ".4f")
    megabytes: float | None = column("MB", ".1f")
    speedup: float | None = column("times as fast as FP32", ".2f")
    seconds: float | None = column("s to derive", ".1f")
    tensorrt_rtx: str = reason("TensorRT-RTX")


def measure(quick: bool) -> ResultTable:
    """Measure all recipes that need no champion, from one observation."""
    chosen = subject.minilm(quick)
    recipes = [item for item in RECIPES.values() if not item.starts_from_champion]
    observed = ours.observe(chosen)
    candidates = {item.name: ours.derived(chosen, item, observed) for item in recipes}
    plans = {
        name: item.lowered("u8")
        for name, item in candidates.items()
        if why_not(RECIPES[name], ONNXRUNTIME) is None
    }
    rounds = time_plans(plans, full_texts(chosen), 5 if quick else 15, 0)
    rows = []
    for recipe in recipes:
        seconds = candidates[recipe.name].clock.total
        speed = rounds.ratio(FULL, recipe.name)[0] if recipe.name in rounds.seconds else None
        rows.append(
            _row(
                chosen,
                recipe,
                plans.get(recipe.name),
                candidates[recipe.name].lowered("s8"),
                speed,
                seconds,
            )
        )
    counts = ", ".join(f"{len(cases)} {group}" for group, cases in chosen.held_out.items())
    return ResultTable(
        "recipes",
        TITLE,
        rows,
        (),
        (f"{len(chosen.calibration)} calibration texts; held out: {counts}.",),
    )


def _row(
    chosen: Subject,
    recipe: Recipe,
    plan: bytes | None,
    graph: bytes,
    speed: float | None,
    seconds: float,
) -> RecipeRow:
    scores = (None, None, None, None) if plan is None else closeness(chosen, plan)
    size = len(graph if plan is None else plan) / 1e6
    return RecipeRow(recipe.name, *scores, size, speed, seconds, accepted(chosen, graph))
