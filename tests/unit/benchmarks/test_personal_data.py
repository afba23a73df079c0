"""Nine in ten of the published samples are replaced, and ordinary texts are left alone."""

from __future__ import annotations

from benchmarks.personal_data.build_samples import samples
from benchmarks.personal_data.recall import (
    FALSE,
    RECALL,
    TEXTS,
    by_library,
    by_patterns,
    false_alarms,
    misses,
    ordinary,
    read_samples,
)


def test_the_published_samples_are_those_that_are_drawn() -> None:
    rows = read_samples()
    assert rows == samples()
    assert len(rows) == 300
    assert len({row["country"] for row in rows}) == 12
    assert len(ordinary()) == TEXTS


def test_the_libraries_replace_the_samples_and_leave_ordinary_texts() -> None:
    missed = misses(by_library)
    assert len(missed) <= (1 - RECALL) * 300, missed
    assert len(false_alarms(by_library)) <= FALSE
    assert len(false_alarms(by_patterns)) <= FALSE


def test_cleaning_twice_changes_nothing_more() -> None:
    for row in read_samples():
        once = by_library(row["text"])
        assert by_library(once) == once
