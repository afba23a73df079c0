"""The fidelity, safety and control detectors, and the intervals beneath them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.drift.detectors.control import control_increments, judge_control
from tasks.drift.detectors.fidelity import Limits, fidelity_increments, judge_fidelity, judge_safety
from tasks.drift.evidence import Alarms, Evidence, with_window
from tasks.drift.statistics.intervals import fraction_interval, mean_interval
from tasks.records import DetectorResult, Health

ALL = {"all": 0.98}


def cosines(mean: float, count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.005, count), -1, 1)


def judged(
    scores: NDArray[np.float64], limit: Limits = ALL, **groups: NDArray[np.bool_]
) -> DetectorResult:
    masks = {"all": np.ones(len(scores), bool), **groups}
    return judge_fidelity(scores, masks, limit=limit, metric="cosine")


def test_scores_above_the_limit_are_fine_and_below_it_degraded() -> None:
    assert judged(cosines(0.99, 100)).health is Health.FINE
    result = judged(cosines(0.95, 100))
    assert result.health is Health.DEGRADED
    assert "cosine to full precision is 0.9" in result.findings[0].text


def test_a_mean_below_the_limit_within_its_uncertainty_is_not_degraded() -> None:
    scores = np.where(np.arange(40) < 38, 1.0, 0.0)  # 0.95, and anything up to 0.99 is possible
    assert judged(scores).health is Health.FINE


def test_a_group_that_was_called_out_is_fine_in_a_window_that_answers_it_well() -> None:
    """The evidence stands for a while.

    A bad night is no reason to build on the requests of the day.
    """
    rules, everybody = Alarms(1000.0), {"all": np.ones(100, bool)}
    known, found = Evidence(), []
    for window, mean in enumerate((0.95, 0.99, 0.95)):
        scores = cosines(mean, 100, window)
        known = with_window(
            known, str(window), None, fidelity_increments(scores, everybody, ALL), rules
        )
        assert known.alarmed == {"all"}
        result = judge_fidelity(
            scores, everybody, limit=ALL, metric="cosine", evidence=known, rules=rules
        )
        found.append(result.health)
    assert found == [Health.DEGRADED, Health.FINE, Health.DEGRADED]


def test_one_bad_language_is_found_though_the_mean_is_fine() -> None:
    scores = np.concatenate([cosines(0.995, 400), cosines(0.95, 40)])
    japanese = np.arange(440) >= 400
    limits = {"all": 0.98, "language=ja": 0.98}
    result = judge_fidelity(
        scores, {"all": np.ones(440, bool), "language=ja": japanese}, limit=limits, metric="cosine"
    )
    assert result.health is Health.DEGRADED
    assert [finding.subject for finding in result.findings if finding.exceeded] == ["language=ja"]


def test_a_small_group_is_not_judged() -> None:
    scores = np.concatenate([cosines(0.995, 400), cosines(0.5, 10)])
    masks = {"all": np.arange(410) >= 0, "language=ja": np.arange(410) >= 400}
    result = judge_fidelity(scores, masks, limit=lambda _: 0.9, metric="cosine")
    assert result.health is Health.FINE
    assert result.findings[1].text == "language=ja: 10 requests are too few to judge; 20 are needed"


def test_nothing_to_judge_is_inconclusive() -> None:
    assert judged(cosines(0.5, 5)).health is Health.INCONCLUSIVE
    assert judged(np.zeros(0)).health is Health.INCONCLUSIVE
    assert judged(cosines(0.5, 100), limit={}).health is Health.INCONCLUSIVE


def test_scores_that_are_not_numbers_mean_a_broken_champion() -> None:
    scores = cosines(0.99, 100)
    scores[7] = np.nan
    assert judged(scores).health is Health.DEGRADED


def test_false_alarms_stay_under_alpha_at_the_limit() -> None:
    alarms = sum(
        judged(cosines(0.98, 60, seed), {"all": 0.98}).health is Health.DEGRADED
        for seed in range(300)
    )
    assert alarms / 300 <= 0.06


@pytest.mark.parametrize(
    ("flips", "count", "budget", "health"),
    [
        (0, 100, 0, Health.FINE),
        (1, 100, 0, Health.DEGRADED),
        (2, 100, 2, Health.FINE),
        (3, 100, 2, Health.DEGRADED),
        (0, 0, 0, Health.INCONCLUSIVE),
    ],
)
def test_safety_flips_are_held_to_their_budget(
    flips: int, count: int, budget: int, health: Health
) -> None:
    assert judge_safety(flips, count, budget).health is health


def test_live_safety_flips_are_held_to_the_rate_of_the_budget() -> None:
    assert judge_safety(3, 1000, 1, budget_count=200).health is Health.FINE
    assert judge_safety(30, 1000, 1, budget_count=200).health is Health.DEGRADED
    assert judge_safety(1, 1000, 0, budget_count=200).health is Health.DEGRADED


def test_full_precision_below_its_floor_degrades_the_control() -> None:
    wrong = np.arange(100) % 2 == 0
    result = judge_control(wrong.astype(float), metric="accuracy", floor=0.9)
    assert result.health is Health.DEGRADED
    assert "full precision's accuracy is 0.500" in result.findings[0].text
    assert judge_control(np.ones(100), metric="accuracy", floor=0.9).health is Health.FINE


@pytest.mark.parametrize(
    ("count", "floor", "reason"),
    [(0, 0.9, "0 labelled cases"), (19, 0.9, "19 labelled"), (100, None, "sets no floor")],
)
def test_a_control_without_labels_or_floor_is_inconclusive(
    count: int, floor: float | None, reason: str
) -> None:
    result = judge_control(np.zeros(count), metric="accuracy", floor=floor)
    assert result.health is Health.INCONCLUSIVE
    assert reason in result.findings[0].text


def test_a_control_that_was_called_out_is_fine_in_a_window_that_is_right_again() -> None:
    """The evidence stands since the champion came.

    A bad day is no reason to ask for retraining on every day after.
    """
    rules = Alarms(1000.0)
    known, health = Evidence(), []
    for window, right in (("night", 0.0), ("day", 1.0), ("doubtful", 0.88), ("next night", 0.0)):
        correct = (np.arange(100) < 100 * right).astype(float)
        known = with_window(known, window, None, control_increments(correct, 0.9), rules)
        result = judge_control(correct, metric="accuracy", floor=0.9, evidence=known, rules=rules)
        health.append(result.health)
        assert ("an earlier alarm stands" in result.findings[0].text) == (window == "day")
    assert health == [Health.DEGRADED, Health.FINE, Health.DEGRADED, Health.DEGRADED]


def test_a_control_that_is_not_a_number_is_degraded() -> None:
    assert judge_control(np.full(30, np.nan), metric="recall", floor=0.5).health is Health.DEGRADED


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_an_interval_holds_its_mean_and_is_the_same_each_time(scores: list[float]) -> None:
    values = np.array(scores)
    interval = mean_interval(values)
    assert interval == mean_interval(values)
    assert interval.low <= interval.value + 1e-9
    assert interval.value <= interval.high + 1e-9


def test_the_exact_interval_of_a_share_agrees_with_published_values() -> None:
    interval = fraction_interval(1, 10)
    assert (interval.low, interval.high) == (
        pytest.approx(0.0025, abs=1e-4),
        pytest.approx(0.4450, abs=1e-4),
    )
    assert fraction_interval(0, 10).low == 0.0
    assert fraction_interval(10, 10).high == 1.0
