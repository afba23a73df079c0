"""The comparison with the champion informs and never binds."""

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.records import Verdict
from tasks.validation.comparison import against_champion
from tasks.validation.metrics.golden import CaseScores


def scored(values: np.ndarray, first: int = 0) -> CaseScores:
    return CaseScores(values, np.arange(first, first + values.size))


BASE = np.random.default_rng(0).uniform(0.9, 1.0, 100)


@pytest.mark.parametrize(
    ("gain", "higher_is_better", "verdict"),
    [
        (0.0, True, Verdict.PASSED),
        (0.05, True, Verdict.PASSED),
        (-0.05, True, Verdict.FAILED),
        (0.05, False, Verdict.FAILED),
        (-0.05, False, Verdict.PASSED),
    ],
)
def test_a_candidate_may_be_worse_by_the_margin_only(
    gain: float, higher_is_better: bool, verdict: Verdict
) -> None:
    gate = against_champion(
        scored(BASE + gain), scored(BASE), 0.01, higher_is_better=higher_is_better
    )
    assert gate.verdict is verdict
    assert not gate.binding
    assert gate.metric == "versus-champion"


def test_pairing_sees_a_difference_that_is_smaller_than_the_spread() -> None:
    assert against_champion(scored(BASE - 0.002), scored(BASE), 0.001).verdict is Verdict.FAILED


def test_few_cases_are_inconclusive() -> None:
    gate = against_champion(scored(BASE[:9]), scored(BASE[:9]), 0.1)
    assert (gate.verdict, gate.estimate) == (Verdict.INCONCLUSIVE, None)


def test_nan_is_an_error() -> None:
    assert against_champion(scored(BASE * np.nan), scored(BASE), 0.1).verdict is Verdict.ERROR


def test_scores_of_different_cases_are_refused() -> None:
    with pytest.raises(BadInput, match="different golden cases"):
        against_champion(scored(BASE), scored(BASE, first=1), 0.1)
