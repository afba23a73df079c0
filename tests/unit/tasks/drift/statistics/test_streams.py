"""False alarms stay within the budget however often one looks.

A late change is still found at once.
"""

from datetime import UTC, datetime, timedelta
from math import log

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.drift.evidence import (
    Alarms,
    Evidence,
    dump_evidence,
    is_fresh,
    parse_evidence,
    with_window,
)
from tasks.drift.statistics.betting import log_capitals, log_frequency_capitals, mean_bounds
from tasks.drift.statistics.logarithms import log_mean
from tasks.drift.statistics.multiplicity import e_bh
from tasks.drift.statistics.streams import Increment, Stream, advanced
from tasks.records import Request

LEAST = 0.95


def step(scores: NDArray[np.float64]) -> Increment:
    return Increment("mean", log_capitals(scores, LEAST), len(scores), float(scores.sum()))


def flips(generator: np.random.Generator, rate: float, count: int = 64) -> NDArray[np.float64]:
    return (generator.random(count) >= rate).astype(np.float64)


def test_the_first_false_alarm_comes_after_the_budgeted_number_of_windows_on_average() -> None:
    generator, lengths, budget = np.random.default_rng(0), [], 20
    for _ in range(60):
        stream, length = Stream(), 0
        while stream.statistic < log(budget) and length < 400:
            stream, length = advanced(stream, step(flips(generator, 1 - LEAST))), length + 1
        lengths.append(length)
    assert np.mean(lengths) >= budget


def test_looking_many_times_at_what_is_fine_rarely_brings_an_e_value_to_20() -> None:
    generator, reached = np.random.default_rng(1), 0
    for _ in range(200):
        stream, most = Stream(), 0.0
        for _ in range(30):
            stream = advanced(stream, step(flips(generator, 1 - LEAST)))
            most = max(most, stream.e_value)
        reached += most >= log(20)
    assert reached <= 0.05 * 200


def test_a_change_after_a_long_good_time_is_found_where_the_plain_process_misses_it() -> None:
    generator, stream = np.random.default_rng(2), Stream()
    for _ in range(500):
        stream = advanced(stream, step(flips(generator, 0.01)))
    for _ in range(3):
        stream = advanced(stream, step(flips(generator, 0.25)))
    assert stream.statistic >= log(3000)
    assert stream.e_value < 0


def test_bets_on_frequencies_allow_for_a_reference_that_is_a_small_sample() -> None:
    generator, truth, reached = np.random.default_rng(3), np.full(5, 0.2), 0
    for _ in range(200):
        reference = generator.multinomial(60, truth).astype(float)
        total = sum(
            log_frequency_capitals(
                reference, generator.multinomial(200, truth).astype(float), delta=0.001
            )
            for _ in range(10)
        )
        reached += log_mean(np.asarray(total)) >= log(20)
    assert reached <= 0.05 * 200
    moved = log_frequency_capitals(np.full(5, 40.0), np.array([140.0, 20, 20, 10, 10]), delta=0.001)
    assert log_mean(moved) > log(12_000)


def test_an_interval_by_bets_holds_its_mean_and_covers_the_truth() -> None:
    generator = np.random.default_rng(4)
    intervals = [mean_bounds(flips(generator, 0.1)) for _ in range(200)]
    assert np.mean([one.low <= 0.9 <= one.high for one in intervals]) >= 0.95
    assert all(one.low <= one.value <= one.high for one in intervals)


def test_capital_does_not_depend_on_the_order_of_requests_or_on_how_they_are_split() -> None:
    scores = np.random.default_rng(5).random(50)
    halves = log_capitals(scores[:20], LEAST) + log_capitals(scores[20:], LEAST)
    assert np.allclose(log_capitals(scores[::-1], LEAST), halves)


def test_e_bh_picks_what_the_mean_of_all_can_carry() -> None:
    assert e_bh({"a": log(3000), "b": 0.0, "c": 0.0}, 1000) == {"a"}
    assert e_bh({"a": log(1500), "b": log(1500), "c": 0.0}, 1000) == {"a", "b"}
    assert e_bh({"a": log(2999), "b": 0.0, "c": 0.0}, 1000) == frozenset()
    assert e_bh({}, 1000) == frozenset()


def test_the_same_window_counts_once_and_overlapping_requests_too() -> None:
    time = datetime(2026, 1, 5, tzinfo=UTC)
    requests = [Request(f"r{i}", time + timedelta(hours=i), "t", "d", "en", "x") for i in range(4)]
    once = with_window(Evidence(), "w1", requests[1].time, {"all": step(np.zeros(30))}, Alarms())
    assert with_window(once, "w1", requests[3].time, {"all": step(np.zeros(30))}, Alarms()) == once
    assert is_fresh(once, "w1", requests) == [False] * 4
    assert is_fresh(once, "w2", requests) == [False, False, True, True]


def test_an_alarm_lasts_until_the_evidence_has_clearly_gone() -> None:
    generator, rules = np.random.default_rng(6), Alarms(recover=0.5)
    bad = with_window(Evidence(), "w1", None, {"all": step(flips(generator, 0.5))}, rules)
    assert bad.alarmed == {"all"}
    good = with_window(bad, "w2", None, {"all": step(np.ones(3000))}, rules)
    assert good.alarmed == frozenset()


def test_evidence_is_read_back_as_it_was_written_and_a_damaged_one_is_refused() -> None:
    known = with_window(
        Evidence(), "w1", datetime(2026, 1, 5, tzinfo=UTC), {"all": step(np.ones(30))}, Alarms()
    )
    assert parse_evidence(dump_evidence(known), where="here") == known
    for data in (b"{", b'{"version":1}', b"[]", b'{"version":9}'):
        with pytest.raises(BadInput, match="here"):
            parse_evidence(data, where="here")
