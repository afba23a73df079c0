"""A suite's figures of a candidate beside full precision's; nothing is judged here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.records import GoldenSet
from tasks.specs.groups import group_names, judged
from tasks.specs.traits import OF_ITSELF
from tasks.validation.harness import Score
from tasks.validation.metrics.golden import CaseScores

_BEFORE, _AFTER, _DROP = "-reference", "-candidate", "-drop"


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one group of cases, or of one task."""

    metric: str
    group: str
    full_precision: float
    candidate: float
    count: int | None  # cases; None where the suite does not tell

    @property
    def difference(self) -> float:
        """Candidate minus full precision."""
        return self.candidate - self.full_precision


def golden_figures(golden: GoldenSet, scores: Mapping[str, CaseScores]) -> tuple[Figure, ...]:
    """Average every metric over all its cases and over each group.

    A metric that both sides have for themselves (`rouge-reference`, `rouge-candidate`) is one
    figure, and its drop is the difference. The mean token loss is shown as perplexity. A relation
    (cosine, flips) has full precision beside itself on the other side.
    """
    return tuple(figure for metric in sorted(scores) for figure in _figures(metric, scores, golden))


def harness_figures(
    full_precision: Sequence[Score], candidate: Sequence[Score]
) -> tuple[Figure, ...]:
    """Set both runs of a task side by side; a group's tasks are its groups."""
    before = {(score.task, score.metric): score.value for score in full_precision}
    return tuple(
        Figure(score.metric, score.task, before[score.task, score.metric], score.value, None)
        for score in candidate
        if (score.task, score.metric) in before
    )


def _figures(metric: str, scores: Mapping[str, CaseScores], golden: GoldenSet) -> Iterator[Figure]:
    if metric.endswith((_AFTER, _DROP)):
        return
    name, paired = metric.removesuffix(_BEFORE), metric.endswith(_BEFORE)
    measured = scores[f"{name}{_AFTER}"] if paired else scores[metric]
    cases = [golden.cases[index] for index in measured.cases]
    for group in group_names(cases, frozenset()):
        chosen = np.array([judged(case, group, frozenset()) for case in cases], bool)
        after = _mean(name, measured, chosen)
        before = _mean(name, scores[metric], chosen) if paired else OF_ITSELF.get(name, 0.0)
        title = "perplexity" if name == "loss" else name
        yield Figure(title, group, before, after, int(chosen.sum()))


def _mean(name: str, scores: CaseScores, chosen: NDArray[np.bool_]) -> float:
    """Average the chosen scores; losses and their differences are logarithms."""
    mean = float(scores.values[chosen].mean())
    return math.exp(mean) if name == "loss" or name.endswith("perplexity-ratio") else mean
