"""Both engines are timed in turn, fairly."""

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.validation.latency import paired_engines


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


def test_an_engine_that_fails_is_not_swallowed() -> None:
    class Broken(Watch):
        def time_runs(self, feeds: object, rounds: int) -> np.ndarray:
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        paired_engines(Watch("r", []), Broken("c", []), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(("rounds", "warmup"), [(0, 0), (-1, 0), (1, -1)])
def test_no_rounds_are_refused(rounds: int, warmup: int) -> None:
    with pytest.raises(BadInput, match="at least 1 round"):
        paired_engines(Watch("r", []), Watch("c", []), {}, rounds=rounds, warmup=warmup)  # type: ignore[arg-type]
