"""Confidence intervals of a mean over fixed cases, which are the same at every look."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.records import Interval

_RESAMPLES = 2000
_MOST_RESAMPLES = 20_000


def mean_interval(scores: NDArray[np.floating], *, alpha: float = 0.05, seed: int = 0) -> Interval:
    """Return a two-sided interval of the mean of scores [N], N >= 1.

    Clopper-Pearson for 0/1 scores, else a bootstrap.
    """
    values = np.asarray(scores, np.float64)
    if np.isin(values, (0.0, 1.0)).all():
        return fraction_interval(int(values.sum()), len(values), alpha=alpha)
    return _bootstrap(values, alpha, seed)


def fraction_interval(hits: int, count: int, *, alpha: float = 0.05) -> Interval:
    """Return Clopper and Pearson's exact interval (1934) of hits / count, count >= 1."""
    from scipy import stats  # type: ignore[import-untyped, unused-ignore]  # loads slowly

    low = 0.0 if hits == 0 else float(stats.beta.ppf(alpha / 2, hits, count - hits + 1))
    high = 1.0 if hits == count else float(stats.beta.ppf(1 - alpha / 2, hits + 1, count - hits))
    return Interval(hits / count, low, high)


def _bootstrap(values: NDArray[np.float64], alpha: float, seed: int) -> Interval:
    """Resample (percentile bootstrap, Efron, 1979), seeded: equal scores, equal interval."""
    generator = np.random.default_rng(seed)
    resamples = int(np.clip(40 / alpha, _RESAMPLES, _MOST_RESAMPLES))
    chunk = max(1, 1_000_000 // len(values))  # rows drawn at once: bounds the memory
    means = np.concatenate(
        [
            values[
                generator.integers(0, len(values), (min(chunk, resamples - start), len(values)))
            ].mean(axis=1)
            for start in range(0, resamples, chunk)
        ]
    )
    low, high = np.quantile(means, (alpha / 2, 1 - alpha / 2))
    return Interval(float(values.mean()), float(low), float(high))
