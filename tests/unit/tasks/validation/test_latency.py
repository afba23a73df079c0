"""Both engines are timed in turn, fairly."""

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.validation.latency import paired_engines, paired_latency


class Machine:
    """A clock that only the two engines move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = ""

    def engine(self, name: str, seconds: float):
        def run() -> None:
            self.calls += name
            self.now += seconds

        return run


def test_each_round_times_both_and_alternates_who_goes_first() -> None:
    machine = Machine()
    found = paired_latency(
        machine.engine("r", 2.0),
        machine.engine("c", 1.0),
        rounds=4,
        warmup=1,
        clock=lambda: machine.now,
    )
    assert machine.calls == "rc" + "rccrrccr"
    assert found.reference.tolist() == [2.0] * 4
    assert found.candidate.tolist() == [1.0] * 4
    assert found.ratios.tolist() == [0.5] * 4


def test_warm_up_is_not_timed() -> None:
    machine = Machine()
    found = paired_latency(
        machine.engine("r", 1.0),
        machine.engine("c", 1.0),
        rounds=2,
        warmup=5,
        clock=lambda: machine.now,
    )
    assert found.reference.size == 2
    assert len(machine.calls) == 14


def test_an_engine_that_fails_is_not_swallowed() -> None:
    def broken() -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        paired_latency(lambda: None, broken)


@pytest.mark.parametrize(("rounds", "warmup"), [(0, 0), (-1, 0), (1, -1)])
def test_no_rounds_are_refused(rounds: int, warmup: int) -> None:
    with pytest.raises(BadInput, match="at least 1 round"):
        paired_latency(lambda: None, lambda: None, rounds=rounds, warmup=warmup)


class Watch:
    """An engine that times itself: a millisecond a run, then two, then three."""

    def __init__(self, name: str, order: list[str]) -> None:
        self._name, self._order, self._taken = name, order, 0

    def time_runs(self, feeds: object, rounds: int) -> np.ndarray:
        self._order.extend(self._name * rounds)
        self._taken += rounds
        return np.arange(self._taken - rounds + 1, self._taken + 1, dtype=np.float64)


def test_engines_time_themselves_in_turn_after_their_warm_up() -> None:
    order: list[str] = []
    found = paired_engines(Watch("r", order), Watch("c", order), {}, rounds=4, warmup=2)  # type: ignore[arg-type]
    assert "".join(order) == "rrcc" + "rccrrccr"
    assert found.reference == pytest.approx([0.003, 0.004, 0.005, 0.006])
    with pytest.raises(BadInput, match="at least 1 round"):
        paired_engines(Watch("r", order), Watch("c", order), {}, rounds=0)  # type: ignore[arg-type]
