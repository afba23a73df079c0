"""What routing unsure answers to full precision wins back, beside other routers at equal cost.

The digits are the shipped model that gives scores of classes. Each recipe's engine is released,
promoted, and asked as `requant routing` does it.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness import ours, subject
from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.serving.workspace import registered, release
from flows.queries.routing import RoutingCurve, routing_curve
from tasks.promotion.acts.promoting import promote
from tasks.records import ReleaseRef
from tasks.serving.curve import CurvePoint

MODEL = "digits"
RECIPES = ("int8-max", "int8-smooth", "int8-percentile")
BUDGETS, MOST_ROUTED = (0.05, 0.1, 0.2), 0.2


@dataclass(frozen=True, slots=True)
class RoutedRow:
    """One recipe at one share of routed cases."""

    recipe: str = column("recipe")
    routed: float = column("routed", ".3f")
    routine: float = column("accuracy, none routed", ".4f")
    quality: float = column("routed by confidence", ".4f")
    random: float = column("at random", ".4f")
    learned: float = column("learned from inputs", ".4f")
    higher: float = column("all in full precision", ".4f")
    won_back: float = column("of the gap won back", ".2f")

    @property
    def above_baselines(self) -> float:
        """Return by how much the best of the other routers is left behind."""
        return self.quality - max(self.random, self.learned)


def measure(quick: bool) -> ResultTable:
    """Route the golden cases of each recipe's champion."""
    chosen_model, rows = subject.digits(False), list[RoutedRow]()
    cases, reigns = 0, None
    with registered(MODEL) as chosen:
        for recipe in RECIPES[:1] if quick else RECIPES:
            made = release(chosen, MODEL, ours.quantize(chosen_model, recipe).lowered("u8"))
            reigns = _promoted(made, reigns)
            curve = routing_curve(MODEL)
            rows += _rows(recipe, curve)
            cases = curve.cases
    most = min(rows, key=lambda row: row.routine).recipe
    lossiest = [row for row in rows if row.recipe == most]
    goals = (
        Goal(
            "accuracy above the best other router's, the least of all rows:",
            0.0,
            min(row.above_baselines for row in rows),
        ),
        Goal(
            f"of the gap won back by {MOST_ROUTED:.0%} where INT8 loses most ({most}):",
            0.8,
            lossiest[-1].won_back,
        ),
    )
    notes = (
        f"{cases} golden cases; each threshold, and what is learned, comes from every second case "
        "and is judged on the others. As many cases are routed in each way.",
    )
    title = f"{MODEL}: unsure answers of INT8 given again in full precision"
    return ResultTable("routing", title, rows, goals, notes)


def _promoted(made: ReleaseRef, reigns: str | None) -> str:
    promote(made, reigns, "benchmark", "to measure it")
    return made.version


def _rows(recipe: str, curve: RoutingCurve) -> list[RoutedRow]:
    none, whole = curve.points[0], curve.points[-1]
    return [_row(recipe, none, point, whole) for point in curve.points if point.budget in BUDGETS]


def _row(recipe: str, none: CurvePoint, point: CurvePoint, whole: CurvePoint) -> RoutedRow:
    if point.learned is None or point.won_back is None:
        raise ValueError(f"{recipe} answers as full precision does: there is nothing to win back")
    return RoutedRow(
        recipe,
        point.routed,
        none.quality,
        point.quality,
        point.random,
        point.learned,
        whole.quality,
        point.won_back,
    )
