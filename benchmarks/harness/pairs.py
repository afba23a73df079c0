"""Timing on a machine that others use too: interleaved rounds, medians of ratios within one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Rounds:
    """Seconds of every contender, [rounds]; equal positions were measured in the same round."""

    seconds: Mapping[str, NDArray[np.float64]]

    def median(self, name: str) -> float:
        """Return the median in seconds."""
        return float(np.median(self.seconds[name]))

    def ratio(self, slow: str, fast: str) -> tuple[float, float, float]:
        """Return median, 10th and 90th percentile of slow / fast."""
        ratios = self.seconds[slow] / self.seconds[fast]
        low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
        return float(middle), float(low), float(high)


def interleave(calls: Mapping[str, Callable[[], object]], rounds: int, repeats: int = 3) -> Rounds:
    """Give every call a turn in each round: one run that is not timed, then `repeats`' median.

    The untimed run lets the previous engine's threads stop spinning. The order turns by one every
    round.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in [*names[start:], *names[:start]]:
            calls[name]()
            seconds[name].append(float(np.median([timed(calls[name]) for _ in range(repeats)])))
    return Rounds({name: np.asarray(values) for name, values in seconds.items()})


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    started = perf_counter()
    call()
    return perf_counter() - started
