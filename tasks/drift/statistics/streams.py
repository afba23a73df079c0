"""Evidence about one thing that is watched, window after window since the champion came.

Two figures are kept. The *e-process* multiplies everything since the champion came: it says how
sure one may be that all was not well, and goes blind when the change comes after a long good time.
The *e-detector* starts anew with every window and sums over the starts (Shin, Ramdas and Rinaldo,
"E-detectors", 2023, their Shiryaev-Roberts form): M = (M + 1) * L. While nothing has changed,
it first reaches c after c windows or more on average.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.drift.statistics.logarithms import log_mean

FLOOR = -700.0
"""Stands for log 0: e^-700 added to an e-detector changes nothing, and JSON can write it."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What is known about one group, feature or layer."""

    basis: str = ""  # what the bets rest on, such as a limit; another basis starts anew
    product: tuple[float, ...] = ()  # log capital of each bet since the champion came, [bets]
    e_detector: tuple[float, ...] = ()  # log of each bet's e-detector, [bets]
    count: int = 0  # requests
    total: float = 0.0  # sum of their scores
    alarmed: bool = False  # until the e-detector has fallen below the recovery threshold

    @property
    def e_value(self) -> float:
        """Log of the e-process: the mean capital over the bets."""
        return log_mean(self.product) if self.product else 0.0

    @property
    def statistic(self) -> float:
        """Log of the e-detector: the mean over the bets."""
        return log_mean(self.e_detector) if self.e_detector else FLOOR

    @property
    def mean(self) -> float:
        """Mean score since the champion came."""
        return self.total / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Increment:
    """What one window adds to a stream."""

    basis: str
    logs: NDArray[np.float64] = field(repr=False)  # log factor of each bet, [bets]
    count: int
    total: float = 0.0


def advanced(stream: Stream | None, step: Increment) -> Stream:
    """Return the stream after one more window.

    A window without requests changes nothing; another basis starts anew.
    """
    if stream is None or stream.basis != step.basis or len(stream.product) != len(step.logs):
        stream = Stream(step.basis, (0.0,) * len(step.logs), (FLOOR,) * len(step.logs))
    if not step.count:
        return stream
    product = np.maximum(np.asarray(stream.product) + step.logs, FLOOR * 1e3)
    e_detector = np.maximum(np.logaddexp(np.asarray(stream.e_detector), 0.0) + step.logs, FLOOR)
    return Stream(
        step.basis,
        tuple(float(round(value, 6)) for value in product),
        tuple(float(round(value, 6)) for value in e_detector),
        stream.count + step.count,
        stream.total + step.total,
        stream.alarmed,
    )
