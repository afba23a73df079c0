"""Patterns that guard texts are searched within a bound, while others are answered."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from flows.gateway import guards
from flows.gateway.fronts import TextFront
from flows.gateway.guards import open_guards
from tasks.specs.serving import GuardSpec

NOTHING: Any = None


def test_a_pattern_that_takes_ages_blocks_the_text_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guards, "SEARCH_S", 0.3)
    spec = GuardSpec(name="slow", on="input", pattern=r"^(\w+\s?)*$")
    (guard,) = open_guards([spec], NOTHING).of("input")
    assert not guard.stops("!")
    ticks = 0
    searching = threading.Thread(target=guard.stops, args=("word " * 40_000 + "!",))
    began = time.monotonic()
    searching.start()
    while searching.is_alive():
        time.sleep(0.005)
        ticks += 1
    took = time.monotonic() - began
    assert guard.stops("word " * 40_000 + "!")
    assert 0.2 < took < 5
    assert ticks > 10, "the interpreter was free meanwhile"


def test_any_guard_of_what_comes_in_is_asked_from_a_thread() -> None:
    spec = GuardSpec(name="secrets", on="input", pattern="password")
    assert TextFront(NOTHING, open_guards([spec], NOTHING)).takes_long
    assert not TextFront(NOTHING).takes_long
