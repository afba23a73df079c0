"""Bets against the claim that all is well: capital that grows is evidence, however often one looks.

A bet is fair or worse while the claim holds, so that capital ever reaches 1/alpha with probability
alpha at most, however long one plays (Ville, 1939). Bets are constants from a fixed grid, and the
average over the grid is the capital: it does not depend on the order of the requests, and adds up
over windows and machines. Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting" (2024); the grid is their mixture of constant bets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.drift.statistics.logarithms import log_mean
from tasks.records import Interval

FRACTIONS = (0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Of the capital at stake: small ones find a small loss of 0/1 scores, large ones a steady loss."""
MOVES = (0.03, 0.1, 0.3, 0.6)
"""How far a frequency is bet to have gone on the way from its bound to 1 (or to 0)."""
_LEAST = 1e-6  # a bound of 1 leaves no room: any score below it is evidence without limit


def log_capitals(scores: NDArray[np.floating], least: float) -> NDArray[np.float64]:
    """Return log capital [bets] after betting on scores [N] against "the mean is `least` or more".

    Scores are cut to 0..1, which only raises a mean that was below 0: the claim stays true where it
    was. A bet stakes the fraction f of what it could lose, so a score x multiplies capital by
    1 + f (least - x) / (1 - least).
    """
    values = np.clip(np.asarray(scores, np.float64), 0.0, 1.0)
    room = max(1.0 - least, _LEAST)
    gains = np.maximum((least - values) / room, -1.0)
    return np.array([np.log1p(fraction * gains).sum() for fraction in FRACTIONS])


def mean_bounds(scores: NDArray[np.floating], *, alpha: float = 0.05) -> Interval:
    """Return a two-sided confidence interval of the mean of scores [N] in 0..1, N >= 1.

    Valid at any sample size: all means that neither the bets from above nor those from below refute
    at alpha / 2, by bisection, since the capital against "at least m" grows with m.
    """
    values = np.clip(np.asarray(scores, np.float64), 0.0, 1.0)
    limit, mean = float(np.log(2 / alpha)), float(values.mean())
    high = _refuted_from(values, mean, limit)
    low = 1.0 - _refuted_from(1.0 - values, 1.0 - mean, limit)
    return Interval(mean, min(low, mean), max(high, mean))


def _refuted_from(values: NDArray[np.float64], mean: float, limit: float) -> float:
    low, high = mean, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if log_mean(log_capitals(values, middle)) >= limit else (middle, high)
        )
    return high


def frequency_bounds(
    counts: NDArray[np.floating], *, delta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lower and upper bounds [bins] of the frequencies behind counts [bins].

    All are right at once with 1 - delta: Clopper and Pearson (1934), delta shared by bins and
    sides. This is how a reference that is itself a sample is allowed for: bets are made against its
    bounds, never against its observed frequencies.
    """
    hits = np.asarray(counts, np.float64)
    total, tail = hits.sum(), delta / (2 * max(len(hits), 1))
    from scipy import stats  # type: ignore[import-untyped, unused-ignore]  # loads slowly

    low = np.where(hits > 0, stats.beta.ppf(tail, np.maximum(hits, 1), total - hits + 1), 0.0)
    high = np.where(
        hits < total, stats.beta.ppf(1 - tail, hits + 1, np.maximum(total - hits, 1)), 1.0
    )
    return low, high


def log_frequency_capitals(
    reference: NDArray[np.floating], current: NDArray[np.floating], *, delta: float
) -> NDArray[np.float64]:
    """Return log capital [2 * moves * bins] after betting that bins left the reference's bounds.

    The bets are on current counts [bins], by a likelihood ratio of each bin's own 0/1 outcomes: bet
    on q against a bound b, a hit multiplies capital by q / b and a miss by (1 - q) / (1 - b), which
    is fair at b and a loss on the near side of it.
    """
    low, high = frequency_bounds(reference, delta=delta)
    hits = np.asarray(current, np.float64)
    misses = hits.sum() - hits
    logs = []
    for move in MOVES:
        up, down = np.minimum(high + move * (1 - high), 1 - 1e-9), low * (1 - move)
        logs.append(np.where(high < 1 - 1e-9, _ratio(hits, misses, up, high), 0.0))
        logs.append(np.where(low > 0, _ratio(hits, misses, down, low), 0.0))
    return np.concatenate(logs)


def _ratio(
    hits: NDArray[np.float64],
    misses: NDArray[np.float64],
    bet: NDArray[np.float64],
    bound: NDArray[np.float64],
) -> NDArray[np.float64]:
    inside = np.clip(bound, 1e-12, 1 - 1e-12)
    bets = np.clip(bet, 1e-12, 1 - 1e-12)
    ratio: NDArray[np.float64] = hits * np.log(bets / inside) + misses * np.log(
        (1 - bets) / (1 - inside)
    )
    return ratio
