"""What a scenario costs the quantized model at the time of a window.

The luck of the window's own requests is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.drift.windows import Bench, MeasuredWindow, Numbers
from tasks.drift.look import masks
from tasks.records import Request

GROUP = 20
"""Least requests of a domain or language in a window for it to count.

The detector needs as many to judge one.
"""


@dataclass(frozen=True, slots=True, eq=False)
class ExcessLoss:
    """Fidelity lost beyond what the champion loses at home, [windows]."""

    everybody: Numbers  # the mean of all
    worst: Numbers  # of all, or of the domain or language that loses most


def costs(bench: Bench, windows: Sequence[MeasuredWindow], dense: Sequence[Request]) -> ExcessLoss:
    """Measure what each window's time costs, on all `dense` requests of it.

    They are of the same scenario, many times as often.
    """
    home = 1 - float(bench.scores(bench.reference).mean())
    scores = bench.scores(dense)
    times = np.array([request.time.timestamp() for request in dense])
    groups = masks(dense)
    excess = []
    for window in windows:
        at = [request.time.timestamp() for request in window.requests]
        within = (times >= min(at)) & (times <= max(at))
        present = {name for name, mask in masks(window.requests).items() if mask.sum() >= GROUP}
        means = {
            name: scores[groups[name] & within].mean()
            for name in present
            if (groups[name] & within).any()
        }
        excess.append((1 - means["all"] - home, 1 - min(means.values()) - home))
    everybody, worst = np.array(excess).T
    return ExcessLoss(everybody, worst)
