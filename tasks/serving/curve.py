"""What routing unsure answers to a higher tier buys: quality against cost, beside other routers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.serving.confidence import threshold

BUDGETS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
Scores = NDArray[np.float64]
_GAMMA = 10.0
"""By how much a similar case counts more than one without likeness, as in the paper."""


@dataclass(frozen=True, slots=True)
class TieredAnswers:
    """Cases that both tiers answered, [N] each."""

    confidence: Scores  # of the routine tier
    routine: Scores  # how good its answers are, 0 to 1
    higher: Scores  # how good the higher tier's are
    inputs: Scores | None = None  # [N, D], what a learned router sees; None: it cannot be tried


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One budget, and what came of it on cases that its threshold was not chosen on."""

    budget: float  # share of the cases, at most, that the higher tier may answer
    routed: float  # share that it answered
    quality: float  # mean over all cases
    random: float  # the same if as many were routed at random
    learned: float | None  # the same by a router that was trained on the inputs
    best: float  # the same if it were known which cases gain
    won_back: float | None  # share of what the tiers lie apart; None where they do not
    cost: float  # engine time a case, in that of the higher tier


def curve(
    answers: TieredAnswers, relative_cost: float, budgets: Sequence[float] = BUDGETS
) -> tuple[CurvePoint, ...]:
    """Return quality against cost.

    Each threshold is chosen on every second case and judged on the others, and the other way round:
    none is judged on cases that it was fitted to.

    Args:
        answers: At least two cases.
        relative_cost: Engine time of a routine answer in that of a higher one.
        budgets: The shares to try.
    """
    return tuple(_point(answers, relative_cost, budget) for budget in budgets)


def _point(answers: TieredAnswers, relative_cost: float, budget: float) -> CurvePoint:
    routed, learned = (np.zeros(len(answers.routine), bool) for _ in range(2))
    even = np.arange(len(routed)) % 2 == 0
    for chosen in (even, ~even):
        below = threshold(answers.confidence[chosen], budget)
        routed[~chosen] = answers.confidence[~chosen] < below
        learned[~chosen] = _learned(answers, chosen, int(routed[~chosen].sum()))
    share = float(routed.mean())
    low, high = float(answers.routine.mean()), float(answers.higher.mean())
    quality = _quality(answers, routed)
    gains = np.sort(answers.higher - answers.routine)[::-1]
    known = low + float(np.maximum(gains[: int(routed.sum())], 0.0).sum()) / len(routed)
    return CurvePoint(
        budget,
        share,
        quality,
        low + share * (high - low),
        None if answers.inputs is None else _quality(answers, learned),
        known,
        (quality - low) / (high - low) if high > low else None,
        relative_cost + share,
    )


def _quality(answers: TieredAnswers, routed: NDArray[np.bool_]) -> float:
    return float(np.where(routed, answers.higher, answers.routine).mean())


def _learned(answers: TieredAnswers, chosen: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Route as many of the other cases as promise most, by the gains of the chosen ones.

    A gain is a mean of known ones, weighted by similarity: the ranking of Ong et al., "RouteLLM"
    (2024), arXiv 2406.18665, section 4.2, with gains of quality in place of votes.
    """
    routed = np.zeros(int((~chosen).sum()), bool)
    if answers.inputs is None or not count:
        return routed
    norms = np.linalg.norm(answers.inputs, axis=1, keepdims=True)
    unit = answers.inputs / np.where(norms > 0, norms, 1.0)
    similarity = unit[~chosen] @ unit[chosen].T
    nearest = similarity.max(axis=1, keepdims=True)
    weights = _GAMMA ** (1 + similarity / np.where(nearest > 0, nearest, 1.0))
    gains = (answers.higher - answers.routine)[chosen]
    promised = weights @ gains / weights.sum(axis=1)
    routed[np.argsort(-promised, kind="stable")[:count]] = True
    return routed
