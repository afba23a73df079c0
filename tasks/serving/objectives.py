"""Limits of live answers, and when one of them is broken: bets that may be looked at always.

Each limit is a claim that scores between 0 and 1 have at least some mean; capital grows while they
have less. The capital starts anew with every look (an e-detector), so that a long good time blinds
nothing, and limits are picked by e-BH: while all claims hold, the first false pick comes after so
many looks or more on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from tasks.drift.statistics.betting import log_capitals
from tasks.drift.statistics.multiplicity import e_bh
from tasks.drift.statistics.streams import FLOOR, Increment, Stream, advanced
from tasks.specs.serving import FallbackSpec

LATENCY, ERRORS, FIDELITY, FLIPS, MEMORY = "latency", "errors", "fidelity", "flips", "memory"
OVER_MEMORY = 0.05
"""Share of looks that may find more memory than the limit."""
PROBES = 30
"""Probes of each limit that the champion needs to come back."""
_CALM = 0.5
"""Share of the log evidence for a fall, under which a limit counts as kept again."""
Scores = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Objective:
    """One limit."""

    name: str
    least: float  # mean of its scores, 0 to 1


@dataclass(frozen=True, slots=True)
class ServingWatch:
    """What is known of each limit since the champion came, or since it fell."""

    objectives: tuple[Objective, ...]
    streams: Mapping[str, Stream]

    def looked(self, scores: Scores) -> ServingWatch:
        """Return the watch after one more look at some scores [N] of each limit."""
        streams = dict(self.streams)
        for objective in self.objectives:
            values = scores.get(objective.name)
            if values is None or not len(values):
                continue
            logs = log_capitals(values, objective.least)
            total = float(np.clip(values, 0.0, 1.0).sum())
            step = Increment(f"{objective.least:g}", logs, len(values), total)
            streams[objective.name] = advanced(streams.get(objective.name), step)
        return ServingWatch(self.objectives, streams)

    def broken(self, false_alarms: float) -> tuple[str, ...]:
        """Return the limits that are broken; a false one comes once in so many looks at most."""
        statistics = {each.name: self._statistic(each.name) for each in self.objectives}
        picked = e_bh(statistics, false_alarms)
        return tuple(each.name for each in self.objectives if each.name in picked)

    def recovered(self, false_alarms: float, probes: int = PROBES) -> bool:
        """Return whether enough probes of each limit kept it."""
        for objective in self.objectives:
            stream = self.streams.get(objective.name)
            if stream is None:
                return False
            calm = stream.statistic < _CALM * log(false_alarms)
            if stream.count < probes or stream.mean < objective.least or not calm:
                return False
        return True

    def told(self, names: Sequence[str]) -> str:
        """Return in words what was seen of some limits."""
        return "; ".join(self._told(each) for each in self.objectives if each.name in names)

    def _told(self, objective: Objective) -> str:
        stream = self.streams[objective.name]
        return (
            f"{objective.name}: the mean score of {stream.count} is {stream.mean:.4f}, and "
            f"{objective.least:.4f} is the least"
        )

    def _statistic(self, name: str) -> float:
        stream = self.streams.get(name)
        return stream.statistic if stream is not None else FLOOR


def objectives_of(spec: FallbackSpec) -> tuple[Objective, ...]:
    """Return the limits of a spec."""
    limits = {
        LATENCY: None if spec.latency_ms is None else 1 - spec.late,
        ERRORS: None if spec.errors is None else 1 - spec.errors,
        FIDELITY: spec.fidelity,
        FLIPS: None if spec.flips is None else 1 - spec.flips,
        MEMORY: None if spec.memory_mb is None else 1 - OVER_MEMORY,
    }
    return tuple(Objective(name, least) for name, least in limits.items() if least is not None)


def watching(spec: FallbackSpec) -> ServingWatch:
    """Return a watch that has seen nothing."""
    return ServingWatch(objectives_of(spec), {})


def waits_s(spec: FallbackSpec, falls: int) -> float:
    """Return how long a release stays out that fell so many times, this one counted."""
    return float(spec.back_after_s * 2 ** min(max(falls - 1, 0), 10))
