"""How far two observations of the same data may differ, where two engines computed the activations.

Counting is exact everywhere; what differs are the last bits of activations, because engines add in
different orders. A relative change e moves some 10 e of the counts over an edge between bins, which
are an eighth to a sixteenth wide. Float32 products of a few thousand terms differ by 1e-6 to 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.observer import SiteObservation

MOVED = 1e-3
"""Fraction of a site's counts that may lie one bin further; two bins count twice."""
AMAX = 1e-4
"""Relative difference of amax, and of each channel's extremes in units of amax."""
NEAR_ZERO = 2.0**-12
"""Of amax. Below this, a sum's last bits are worth many of these narrow bins, and no range follows.
"""


def why_apart(
    left: Mapping[str, SiteObservation], right: Mapping[str, SiteObservation]
) -> str | None:
    """Return the first site whose observations differ by more than the tolerance, and how.

    None where none does.
    """
    if left.keys() != right.keys():
        return f"the sites differ: {sorted(left.keys() ^ right.keys())}"
    reasons = (_apart(name, left[name], right[name]) for name in sorted(left))
    return next((reason for reason in reasons if reason is not None), None)


def moved(left: ExponentHistogram, right: ExponentHistogram) -> float:
    """Return the bins that the counts travelled, as a fraction of the counts.

    This is the earth mover's distance above `NEAR_ZERO`.
    """
    least = _bin(NEAR_ZERO * min(left.amax, right.amax))
    cumulative = np.cumsum((left.counts - right.counts)[least:][::-1])
    return float(np.abs(cumulative).sum() / max(left.total, 1))


def _apart(name: str, left: SiteObservation, right: SiteObservation) -> str | None:
    before, after = left.histogram, right.histogram
    if (before.total, before.nonfinite) != (after.total, after.nonfinite):
        return f"{name}: {before.total} and {after.total} finite values"
    if abs(before.amax - after.amax) > AMAX * max(before.amax, after.amax):
        return f"{name}: amax {before.amax:g} and {after.amax:g}"
    if (fraction := moved(before, after)) > MOVED:
        return f"{name}: {fraction:.2e} of the counts moved a bin, and at most {MOVED:g} may"
    margin = AMAX * max(before.amax, after.amax)
    for low, high in (
        (left.channel_low, right.channel_low),
        (left.channel_high, right.channel_high),
    ):
        if low.shape != high.shape or (np.abs(low - high) > margin).any():
            return f"{name}: the channels' extremes differ by more than {AMAX:g} of amax"
    return None


def _bin(value: float) -> int:
    return int(np.asarray(value, np.float32).view(np.uint32)) >> 20
