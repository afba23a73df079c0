"""Whether a candidate may take more traffic: a pure evaluator with four verdicts.

Scores are of requests that both releases answered, and each is bounded by a confidence sequence
(`mean_bounds`), so that one may look as often as one likes. Passing wants proof that the candidate
is not worse by more than its margin; failing wants proof that it is. Aborting goes before
promoting, and no traffic never passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tasks.drift.statistics.betting import mean_bounds
from tasks.serving.objectives import ERRORS, FIDELITY, FLIPS, LATENCY
from tasks.specs.serving import DeliverySpec

MOST = 4000
"""Scores of one measure that are looked at in a step; later ones change no verdict."""
Scores = Mapping[str, NDArray[np.float64]]


class StepVerdict(StrEnum):
    """What is known of a candidate in one step."""

    PASS = "pass"  # noqa: S105  # no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no-data"


class Move(StrEnum):
    """What follows."""

    ADVANCE = "advance"
    HOLD = "hold"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class StepMeasure:
    """One measure of one step."""

    verdict: StepVerdict
    count: int
    mean: float  # of its scores, 0 to 1
    least: float  # what the mean has to be at least


@dataclass(frozen=True, slots=True)
class StepEvaluation:
    """All measures of one step."""

    verdict: StepVerdict
    measures: Mapping[str, StepMeasure]

    @property
    def told(self) -> str:
        """Return in words what was measured."""
        return "; ".join(
            f"{name} {measured.verdict} ({measured.count} requests, score {measured.mean:.4f}, "
            f"at least {measured.least:.4f})"
            for name, measured in self.measures.items()
        )


def least_scores(spec: DeliverySpec, *, compared: bool, decides: bool) -> Mapping[str, float]:
    """Return the least mean score of each measure.

    A difference d of two scores counts as (1 + d) / 2. A pair's latency scores 1 where the
    candidate keeps the ratio: it is kept in at least half of them where the median is.

    Args:
        spec: The margins.
        compared: Whether both releases answer, and are held against full precision.
        decides: Whether they hold decisions.
    """
    if not compared:
        return {ERRORS: 1.0 - spec.errors}
    return {
        LATENCY: 0.5,
        ERRORS: 1.0 - spec.errors,
        FIDELITY: (1.0 - spec.fidelity_drop) / 2,
        **({FLIPS: (1.0 - spec.flips) / 2} if decides else {}),
    }


def evaluated(scores: Scores, least: Mapping[str, float], alpha: float) -> StepEvaluation:
    """Judge the scores of one step.

    Args:
        scores: By measure, [N] each, 0 to 1, in the order in which they came.
        least: What each mean has to be at least.
        alpha: Chance of one false verdict in the step.
    """
    measures = {
        name: _measured(scores.get(name, np.zeros(0)), bound, alpha / len(least))
        for name, bound in least.items()
    }
    verdicts = [measured.verdict for measured in measures.values()]
    if StepVerdict.FAIL in verdicts:
        verdict = StepVerdict.FAIL
    elif all(each is StepVerdict.PASS for each in verdicts):
        verdict = StepVerdict.PASS
    elif all(each is StepVerdict.NO_DATA for each in verdicts):
        verdict = StepVerdict.NO_DATA
    else:
        verdict = StepVerdict.INCONCLUSIVE
    return StepEvaluation(verdict, measures)


def _measured(scores: NDArray[np.float64], least: float, alpha: float) -> StepMeasure:
    values = scores[:MOST]
    if not len(values):
        return StepMeasure(StepVerdict.NO_DATA, 0, 0.0, least)
    bounds = mean_bounds(values, alpha=alpha)
    verdict = StepVerdict.INCONCLUSIVE
    if bounds.high < least:
        verdict = StepVerdict.FAIL
    elif bounds.low >= least:
        verdict = StepVerdict.PASS
    return StepMeasure(verdict, len(values), float(values.mean()), least)


def next_move(
    evaluation: StepEvaluation, seconds: float, spec: DeliverySpec, *, baking: bool
) -> Move:
    """Return what follows in a step that has lasted so long.

    While it bakes, the candidate has traffic already: time ends that, not proof.
    """
    if evaluation.verdict is StepVerdict.FAIL:
        return Move.ABORT
    if baking:
        return Move.ADVANCE if seconds >= spec.bake_s else Move.HOLD
    if evaluation.verdict is StepVerdict.PASS and seconds >= spec.step_s:
        return Move.ADVANCE
    return Move.ABORT if seconds >= spec.give_up_s else Move.HOLD
