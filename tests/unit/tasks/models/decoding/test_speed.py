"""Two engines write in turn, within a stated time, and each round is timed."""

from collections.abc import Mapping
from typing import Any

import pytest

from infra.engines.port import Engine
from infra.errors import BadInput
from tasks.models.decoding.speed import (
    STEPS,
    PairedGeneration,
    Workload,
    paired_generation,
    typical_workload,
)

TEXTS = ["a", "the cat sits on the roof", "a model of many tokens that are read at once, again"]


class TimedEngine:
    """A real engine whose clock goes on by so many seconds a token, or a pair of tokens."""

    def __init__(self, engine: Engine, second: float, *, pairs: bool = False) -> None:
        self.engine, self.second, self.now = engine, second, 0.0
        self.power = 2 if pairs else 1

    def run(self, feeds: Mapping[str, Any]) -> Any:
        self.now += self.second * feeds["input_ids"].size ** self.power
        return self.engine.run(feeds)

    def clock(self) -> float:
        return self.now


def measured(small: Any, second: float, rounds: int = 10) -> tuple[PairedGeneration, TimedEngine]:
    made = small("llama")
    engine: Any = TimedEngine(made.engine, second)
    work = Workload(tuple(range(1, 31)), tuple(range(1, 33)), STEPS)
    layout = made.inputs.layout
    timed = paired_generation(
        engine, engine, layout, work, rounds=rounds, seconds=60.0, clock=engine.clock
    )
    return timed, engine


def test_a_typical_prompt_is_of_median_length_and_the_longest_as_long_as_is_read(
    small: Any,
) -> None:
    inputs = small("llama").inputs
    work = typical_workload(inputs, TEXTS)
    assert list(work.prompt) == inputs.prompts([TEXTS[1]])[0]
    assert len(work.longest) == inputs.max_length
    assert work.steps == STEPS


def test_without_a_golden_case_there_is_nothing_to_write_after(small: Any) -> None:
    with pytest.raises(BadInput, match="no golden case to write after"):
        typical_workload(small("llama").inputs, [])


def test_each_round_times_a_prompt_its_tokens_and_the_longest_prompt(small: Any) -> None:
    timed, _ = measured(small, 0.001)
    for side in (timed.reference, timed.candidate):
        assert side.first_token == pytest.approx([0.030] * 10)
        assert side.decode == pytest.approx([0.001 * STEPS] * 10)
        assert side.prefill == pytest.approx([0.032] * 10)


def test_prompts_are_cut_so_that_all_rounds_fit_into_the_time(small: Any) -> None:
    timed, engine = measured(small, 0.05)
    assert (len(timed.workload.prompt), len(timed.workload.longest)) == (20, 20)
    assert timed.candidate.prefill.size == 10
    assert engine.now <= 60 + 3 * 6, "and the rounds that found the cut"


def test_an_engine_that_is_too_slow_for_all_rounds_is_timed_once(small: Any) -> None:
    timed, _ = measured(small, 30.0)
    assert timed.workload.steps == 1
    assert timed.candidate.decode.size == 1


def test_all_rounds_fit_where_a_long_text_costs_more_a_token(small: Any) -> None:
    """By 16 tokens alone all 30 would fit, and the time would be up after two thirds of rounds."""
    made = small("llama")
    engine: Any = TimedEngine(made.engine, 0.004, pairs=True)
    work = Workload(tuple(range(1, 31)), tuple(range(1, 33)), STEPS)
    timed = paired_generation(
        engine, engine, made.inputs.layout, work, rounds=10, seconds=60.0, clock=engine.clock
    )
    assert timed.candidate.prefill.size == 10
    assert 12 <= len(timed.workload.longest) < 20
