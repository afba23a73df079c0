"""A gateway under load keeps its memory and every request, while its releases swap."""

from __future__ import annotations

import pytest

from benchmarks.serving.soak import (
    LOAD,
    SECONDS,
    SHORT_LOAD,
    SHORT_SECONDS,
    SHORT_SWAP_S,
    SWAP_S,
    soak,
)
from benchmarks.serving.workspace import served_model


def check(seconds: float, swap_s: float, load: float, growth: float) -> None:
    row = soak(served_model(True), seconds, swap_s, load)
    assert (row.failed, row.lost, row.doubled) == (0, 0, 0), row
    assert row.answers > 50
    assert row.swaps >= 2
    assert row.growth < growth, row


def test_two_minutes_of_load_and_swaps_lose_nothing_that_no_counter_names() -> None:
    check(SHORT_SECONDS, SHORT_SWAP_S, SHORT_LOAD, 1.2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_half_an_hour_of_load_with_a_swap_a_minute_loses_nothing_and_keeps_memory_flat() -> None:
    check(SECONDS, SWAP_S, LOAD, 1.1)
