"""Intervals are honest about few cases, deterministic, and cover what they claim."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import BadInput
from tasks.metrics.intervals import (
    difference_interval,
    fraction_interval,
    median_interval,
    paired_interval,
)

INTERVALS = [paired_interval, difference_interval, fraction_interval, median_interval]


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert paired_interval(values, seed=3) == paired_interval(values, seed=3)
    assert paired_interval(values, seed=3) != paired_interval(values, seed=4)


def test_constant_scores_have_no_spread() -> None:
    found = paired_interval(np.full(20, 0.5))
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_more_cases_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    few, many = (paired_interval(rng.normal(size=n)) for n in (30, 3000))
    assert many.high - many.low < (few.high - few.low) / 5


def test_a_lower_level_narrows_the_interval() -> None:
    values = np.random.default_rng(2).normal(size=60)
    wide, narrow = paired_interval(values, level=0.99), paired_interval(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_an_extreme_sample_still_has_a_finite_interval() -> None:
    values = np.zeros(400)
    values[0] = 1e-300
    found = paired_interval(values)
    assert np.isfinite([found.low, found.high]).all()


def test_skewed_cosines_are_covered_about_as_often_as_claimed() -> None:
    rng = np.random.default_rng(3)
    draws = 1 - rng.exponential(0.01, (200, 60))
    found = [paired_interval(draw, resamples=400) for draw in draws]
    assert np.mean([f.low <= 0.99 <= f.high for f in found]) > 0.88


def test_no_flip_in_a_hundred_cases_still_allows_for_some() -> None:
    found = fraction_interval(np.zeros(100))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(0.0362, abs=1e-4)


def test_a_share_is_made_of_zeros_and_ones() -> None:
    with pytest.raises(BadInput, match="0 and 1 only"):
        fraction_interval(np.array([0, 0.5, 1]))


@pytest.mark.parametrize("count", [20, 80, 400])
def test_no_difference_in_few_cases_proves_little(count: int) -> None:
    found = difference_interval(np.zeros(count))
    assert found.value == 0
    assert found.low < 0 < found.high
    assert found.high == pytest.approx(2.8 / (count + 2), rel=0.25)


def test_differences_keep_their_own_mean() -> None:
    assert difference_interval(np.full(10, 0.5)).value == 0.5


def test_the_median_of_thirty_rounds_lies_between_its_order_statistics() -> None:
    values = np.arange(1.0, 31.0)
    found = median_interval(values)
    assert (found.low, found.value, found.high) == (10, 15.5, 21)


def test_the_median_of_three_rounds_is_unbounded() -> None:
    found = median_interval(np.array([1.0, 2.0, 3.0]))
    assert (found.low, found.high) == (-np.inf, np.inf)


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(interval, bad: float) -> None:
    with pytest.raises(BadInput, match="NaN or infinite"):
        interval(np.array([0.0, 1.0, bad]))


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("shape", [(0,), (1,), (4, 4)])
def test_fewer_than_two_scores_are_refused(interval, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="at least two scores"):
        interval(np.zeros(shape))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40), st.floats(-3, 3))
def test_shifting_every_score_shifts_the_interval(values: list[float], shift: float) -> None:
    before = paired_interval(np.round(values, 3), resamples=200)
    after = paired_interval(np.round(values, 3) + shift, resamples=200)
    assert after.value == pytest.approx(before.value + shift, abs=1e-9)
    assert before.low - 1e-9 <= before.high


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 300), st.data())
def test_one_more_flip_never_lowers_the_interval(count: int, data: st.DataObject) -> None:
    flips = data.draw(st.integers(0, count - 1))
    fewer, more = (
        fraction_interval((np.arange(count) < n).astype(float)) for n in (flips, flips + 1)
    )
    assert fewer.low <= more.low
    assert fewer.high <= more.high
