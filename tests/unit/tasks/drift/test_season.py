"""The same hours of earlier weeks are a reference, drawn the same way every time."""

import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from tasks.drift.detectors.input import judge_inputs
from tasks.drift.season import same_hours, weeks_before
from tasks.records import Health, Request

MONDAY = datetime(2026, 1, 5, 9, tzinfo=UTC)


def requests(end: datetime, language: str, count: int = 60) -> list[Request]:
    words = {
        "en": "what does this function return when it fails",
        "ja": "こ の 関 数 は 何 を 返 し ま す か",
    }[language].split()
    generator = np.random.default_rng(end.toordinal())
    return [
        Request(
            f"{end:%m%d}-{i}",
            end - timedelta(minutes=i),
            "t",
            "d",
            language,
            " ".join(generator.choice(words, 9)),
        )
        for i in range(count)
    ]


def test_weeks_are_counted_back_from_the_windows_end() -> None:
    assert weeks_before(MONDAY, 2) == [MONDAY - timedelta(days=7), MONDAY - timedelta(days=14)]


def test_the_draw_is_bounded_and_the_same_in_any_order() -> None:
    windows = [requests(end, "en") for end in weeks_before(MONDAY, 3)]
    drawn = same_hours(windows, 50)
    assert len(drawn) == 50
    assert same_hours([window[::-1] for window in windows[::-1]] + windows, 50) == drawn


def test_of_a_request_that_was_delivered_twice_the_first_is_drawn() -> None:
    first = requests(MONDAY, "en", 3)
    again = [replace(one, time=one.time + timedelta(hours=1), label="late") for one in first]
    expected = tuple(sorted(first, key=lambda one: one.time))
    assert same_hours([first, again], 50) == same_hours([again, first], 50) == expected


def peak_of(count: int) -> int:
    """Return how many bytes the draw keeps at most, out of so many requests."""
    like = requests(MONDAY, "en", 1)[0]
    tracemalloc.start()
    drawn = same_hours(
        [(replace(like, request_id=f"{week}-{i}") for i in range(count)) for week in range(4)], 32
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn) == 32
    return peak


def test_the_memory_of_the_draw_does_not_grow_with_the_weeks() -> None:
    # What other threads of the process take meanwhile counts too, and is not there each time.
    few, many = (min(peak_of(count) for _ in range(3)) for count in (500, 5_000))
    assert many - few < 50_000, (
        few,
        many,
    )  # the ids alone of the others would be more than a megabyte


def test_what_comes_every_monday_is_no_drift_beside_other_mondays() -> None:
    current = requests(MONDAY, "ja")
    assert (
        judge_inputs(requests(MONDAY - timedelta(days=1), "en"), current).health is Health.DEGRADED
    )
    mondays = same_hours([requests(end, "ja") for end in weeks_before(MONDAY, 4)], 512)
    assert judge_inputs(mondays, current).health is Health.FINE
    assert judge_inputs(same_hours([], 512), current).health is Health.INCONCLUSIVE
