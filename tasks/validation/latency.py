"""Paired timing: both engines in turn, so that whatever slows the machine slows both.

An engine times itself: by the wall clock on a CPU, by events between its kernels on a device,
copies included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Arrays, Engine
from infra.errors import BadInput

Timed = Callable[[], float]
"""Runs once, and returns how many seconds that took."""


@dataclass(frozen=True, slots=True, eq=False)
class PairedLatency:
    """Seconds of each round, in the order in which they were taken."""

    reference: NDArray[np.float64]  # [R] seconds
    candidate: NDArray[np.float64]  # [R] seconds

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Candidate / reference of each round, [R]; NaN where the clock saw no time pass."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.candidate / self.reference)


def paired_engines(
    reference: Engine, candidate: Engine, feeds: Arrays, *, rounds: int = 30, warmup: int = 3
) -> PairedLatency:
    """Time one run of each per round, whoever goes first alternating, each timing itself.

    `warmup` untimed rounds go before. Raises `BadInput` for fewer than one round, and whatever the
    engines raise.
    """
    if rounds < 1 or warmup < 0:
        raise BadInput(
            f"latency needs at least 1 round and 0 warm-ups, and got {rounds} and {warmup}"
        )
    for engine in (reference, candidate):
        engine.time_runs(feeds, warmup)
    return _in_turn(lambda: _once(reference, feeds), lambda: _once(candidate, feeds), rounds)


def _in_turn(time_reference: Timed, time_candidate: Timed, rounds: int) -> PairedLatency:
    seconds = np.empty((rounds, 2))
    for index in range(rounds):
        for side in (0, 1) if index % 2 == 0 else (1, 0):
            seconds[index, side] = (time_reference, time_candidate)[side]()
    return PairedLatency(seconds[:, 0], seconds[:, 1])


def _once(engine: Engine, feeds: Arrays) -> float:
    return float(engine.time_runs(feeds, 1)[0]) / 1e3
