"""Confidence intervals of per-case scores: how sure the golden cases make us of a mean.

There are three kinds of score and three intervals, because one bootstrap for all would lie.
Resampling ten zeros gives the interval 0..0, however little ten cases prove.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.records import Interval

Values = NDArray[np.float64]
"""One score, or one paired difference, per case: [N]."""

LEVEL = 0.95
"""Two-sided level of every interval; a one-sided non-inferiority test on it has a size of 2.5 %."""
_BATCH_ELEMENTS = 2_000_000  # bounds the memory of one batch of resamples to 16 MB


def paired_interval(
    values: Values, *, level: float = LEVEL, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the bootstrap interval of the mean of continuous scores, [N] with N >= 2.

    BCa, because cosines pile up under 1 and tail off below: the plain percentile interval covers
    too little there. Constant scores have an interval of width 0. The same seed gives the same
    interval. Source: Efron, "Better Bootstrap Confidence Intervals", JASA 1987.

    Raises:
        BadInput: for fewer than two scores or one that is not finite.
    """
    scores = _checked(values)
    value = float(scores.mean())
    if np.ptp(scores) == 0:
        return Interval(value, value, value)
    low, high = _bootstrap(scores, "BCa", level, resamples, seed)
    if not (
        math.isfinite(low) and math.isfinite(high)
    ):  # BCa has no answer where the mean tops every resample
        low, high = _bootstrap(scores, "percentile", level, resamples, seed)
    return Interval(value, low, high)


def difference_interval(
    values: Values, *, level: float = LEVEL, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the bootstrap interval of the mean of paired differences in -1..1, [N] with N >= 2.

    One invented case of +1 and one of -1 join the resampled ones. So no observed difference at all
    still leaves about 2.8 / (N + 2) either side. Source: Bonett and Price, "Adjusted Wald
    Confidence Interval for a Difference of Binomial Proportions Based on Paired Data", J. Educ.
    Behav. Stat. 2012.

    Raises:
        BadInput: as `paired_interval` does.
    """
    observed = _checked(values)
    widened = paired_interval(
        np.append(observed, (1.0, -1.0)), level=level, resamples=resamples, seed=seed
    )
    return Interval(float(observed.mean()), widened.low, widened.high)


def fraction_interval(values: Values, *, level: float = LEVEL) -> Interval:
    """Return the exact interval of a fraction, from 0/1 values [N] with N >= 2.

    0 of 100 gives 0..0.036. Source: Clopper and Pearson, Biometrika 1934.

    Raises:
        BadInput: as `paired_interval` does, and for other values.
    """
    from scipy import stats  # type: ignore[import-untyped, unused-ignore]  # loads slowly

    scores = _checked(values)
    if not np.isin(scores, (0.0, 1.0)).all():
        raise BadInput("a fraction needs scores of 0 and 1 only: use paired_interval for others")
    bounds = stats.binomtest(int(scores.sum()), scores.size).proportion_ci(level, method="exact")
    return Interval(float(scores.mean()), float(bounds.low), float(bounds.high))


def median_interval(values: Values, *, level: float = LEVEL) -> Interval:
    """Return the exact interval of the median from order statistics, [N].

    The median of few timings has a lumpy bootstrap; the sign test needs none. Sides are infinite
    where N is too small for the level. Source: Conover, "Practical Nonparametric Statistics", 3.2.

    Raises:
        BadInput: as `paired_interval` does.
    """
    from scipy import stats  # type: ignore[import-untyped, unused-ignore]  # loads slowly

    scores = _checked(values)
    bounds = stats.quantile_test(scores, p=0.5).confidence_interval(level)
    low = float(bounds.low) if math.isfinite(bounds.low) else -math.inf
    high = float(bounds.high) if math.isfinite(bounds.high) else math.inf
    return Interval(float(np.median(scores)), low, high)


def _bootstrap(
    scores: Values, method: str, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    from scipy import stats  # type: ignore[import-untyped, unused-ignore]  # loads slowly

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # degenerate resamples come back as NaN, which the caller handles
        interval = stats.bootstrap(
            (scores,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, _BATCH_ELEMENTS // scores.size),
            vectorized=True,
            confidence_level=level,
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(interval.low), float(interval.high)


def _checked(values: Values) -> Values:
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or scores.size < 2:
        raise BadInput(
            f"an interval needs at least two scores in one row, and got {list(scores.shape)}: add "
            "cases"
        )
    if not np.isfinite(scores).all():
        raise BadInput("a score is NaN or infinite: it cannot be judged; repair what produced it")
    return scores
