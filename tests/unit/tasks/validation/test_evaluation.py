"""Figures of a candidate beside full precision's."""

import math

import numpy as np
import pytest

from tasks.records import CaseKind, GoldenCase, GoldenSet
from tasks.validation.evaluation import golden_figures, harness_figures
from tasks.validation.harness import Score
from tasks.validation.metrics.golden import CaseScores

CASES = tuple(
    GoldenCase(str(n), f"text {n}", "docs", "en" if n < 3 else "de", CaseKind.PLAIN)
    for n in range(4)
)
GOLDEN = GoldenSet(CASES, "0" * 64, None, 0.0)


def scored(*values: float) -> CaseScores:
    return CaseScores(np.array(values), np.arange(len(values)))


def test_a_metric_that_both_sides_have_is_one_figure_of_each_group() -> None:
    scores = {
        "rouge-reference": scored(1, 1, 0, 0),
        "rouge-candidate": scored(1, 0, 0, 1),
        "rouge-drop": scored(0, 1, 0, -1),
    }
    found = {one.group: one for one in golden_figures(GOLDEN, scores)}
    assert set(found) == {"all", "domain=docs", "language=de", "language=en"}
    assert (found["all"].full_precision, found["all"].candidate, found["all"].difference) == (
        0.5,
        0.5,
        0.0,
    )
    assert found["language=en"].difference == pytest.approx(-1 / 3)
    assert (found["language=de"].count, found["language=de"].candidate) == (1, 1.0)


def test_losses_are_told_as_perplexity_and_their_difference_as_a_ratio() -> None:
    scores = {
        "loss-reference": scored(1, 2, 3, 2),
        "loss-candidate": scored(2, 2, 3, 2),
        "perplexity-ratio": scored(1, 0, 0, 0),
    }
    found = {one.metric: one for one in golden_figures(GOLDEN, scores) if one.group == "all"}
    assert found["perplexity"].full_precision == pytest.approx(math.exp(2))
    assert found["perplexity"].candidate == pytest.approx(math.exp(2.25))
    assert (found["perplexity-ratio"].full_precision, found["perplexity-ratio"].candidate) == (
        1.0,
        math.exp(0.25),
    )


def test_a_relation_has_full_precision_beside_itself_on_the_other_side() -> None:
    found = golden_figures(GOLDEN, {"cosine": scored(0.9, 1, 1, 1), "flips": scored(1, 0, 0, 0)})
    told = {one.metric: (one.full_precision, one.candidate) for one in found if one.group == "all"}
    assert told == {"cosine": (1.0, 0.975), "flips": (0.0, 0.25)}


def test_a_task_is_paired_with_itself_by_metric() -> None:
    before = (Score("a", "acc", 0.5, None), Score("b", "acc", 0.25, None))
    after = (
        Score("b", "acc", 0.5, None),
        Score("a", "acc", 0.5, None),
        Score("c", "acc", 1.0, None),
    )
    assert [(one.group, one.difference) for one in harness_figures(before, after)] == [
        ("b", 0.25),
        ("a", 0.0),
    ]
