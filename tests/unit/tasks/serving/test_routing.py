from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.serving.confidence import confidence, threshold
from tasks.serving.curve import TieredAnswers, curve

LOGITS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.floats(width=32)
)


@given(LOGITS, st.sampled_from(["margin", "entropy"]))
def test_confidence_is_between_nothing_and_certainty_whatever_the_logits(
    logits: np.ndarray[tuple[int, int], np.dtype[np.float32]], measure: str
) -> None:
    values = confidence(logits, measure)  # type: ignore[arg-type]
    assert values.shape == (len(logits),)
    assert ((values >= 0) & (values <= 1)).all()


def test_what_is_not_finite_is_not_sure_and_a_tie_neither() -> None:
    logits = [[np.nan, 1.0], [2.0, 2.0], [50.0, 0.0]]
    for measure in ("margin", "entropy"):
        nan, tie, clear = confidence(logits, measure)
        assert (nan, round(tie, 9)) == (0.0, 0.0)
        assert clear > 0.999


@given(
    hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1)),
    st.floats(0, 1),
)
def test_at_most_the_budgets_share_lies_below_a_threshold(
    sure: np.ndarray[tuple[int], np.dtype[np.float64]], budget: float
) -> None:
    assert (sure < threshold(sure, budget)).mean() <= budget + 1e-9


def test_a_confidence_that_knows_beats_random_and_one_that_does_not_equals_it() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(4000) < 0.9
    sure = np.where(right, rng.uniform(0.3, 1, 4000), rng.uniform(0, 0.5, 4000))
    scores, perfect = right.astype(float), np.ones(4000)
    known = curve(TieredAnswers(sure, scores, perfect), 0.4, [0.2])[0]
    blind = curve(TieredAnswers(rng.random(4000), scores, perfect), 0.4, [0.2])[0]
    assert known.routed == pytest.approx(0.2, abs=0.02)
    assert known.won_back is not None
    assert known.won_back > 0.8
    assert known.random < known.quality <= known.best
    assert blind.quality == pytest.approx(blind.random, abs=0.01)
    assert known.cost == pytest.approx(0.4 + known.routed)


def test_tiers_that_do_not_differ_have_nothing_to_win_back() -> None:
    same = TieredAnswers(np.linspace(0, 1, 10), np.ones(10), np.ones(10))
    assert [point.won_back for point in curve(same, 0.5)] == [None] * 7


def test_a_router_that_learns_from_inputs_beats_random_where_they_tell_the_gain() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((2000, 4))
    hard = inputs[:, 0] > 1.0
    routine = np.where(hard, rng.random(2000) < 0.3, True).astype(float)
    sure, perfect = rng.random(2000), np.ones(2000)
    (told,) = curve(TieredAnswers(sure, routine, perfect, inputs), 0.4, [0.2])
    (untold,) = curve(
        TieredAnswers(sure, routine, perfect, rng.standard_normal((2000, 4))), 0.4, [0.2]
    )
    assert told.learned is not None
    assert untold.learned is not None
    assert told.learned > told.random + 0.5 * (told.best - told.random)
    assert untold.learned == pytest.approx(untold.random, abs=0.02)
    assert curve(TieredAnswers(sure, routine, perfect), 0.4, [0.2])[0].learned is None
