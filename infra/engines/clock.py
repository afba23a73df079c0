"""Timing by the wall clock, for engines that return when they are done."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def wall_clock(run: Callable[[], object], rounds: int) -> NDArray[np.float64]:
    """Measure the milliseconds of each of so many calls, [rounds]."""
    durations = np.empty(rounds)
    for index in range(rounds):
        start = time.perf_counter()
        run()
        durations[index] = (time.perf_counter() - start) * 1e3
    return durations
