"""An observation in which no site reaches further than a stated magnitude."""

from collections.abc import Mapping

import numpy as np

from tasks.numerics.histogram import EDGES, FINITE_BINS, ExponentHistogram
from tasks.observation.observer import SiteObservation


def bounded(
    observed: Mapping[str, SiteObservation], ceilings: Mapping[str, float]
) -> dict[str, SiteObservation]:
    """Values above a site's ceiling count as the ceiling, as if they had been clipped before they were observed.

    Every range rule and every search of factors then works below it. Sites without a ceiling stay as they are.
    """
    return {
        name: _clipped(site, ceilings[name])
        if site.histogram.amax > ceilings.get(name, np.inf)
        else site
        for name, site in observed.items()
    }


def _clipped(site: SiteObservation, ceiling: float) -> SiteObservation:
    counts = site.histogram.counts.copy()
    top = int(np.searchsorted(EDGES, ceiling, side="right")) - 1
    counts[top] += counts[top + 1 : FINITE_BINS].sum()
    counts[top + 1 : FINITE_BINS] = 0
    limit = np.float32(ceiling)
    return SiteObservation(
        ExponentHistogram(counts, ceiling),
        np.maximum(site.channel_low, -limit),
        np.minimum(site.channel_high, limit),
        np.clip(site.rows, -limit, limit),
        site.broken,
        np.clip(site.pixels, -limit, limit),
    )
