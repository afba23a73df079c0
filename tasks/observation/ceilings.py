"""Ceilings: the largest magnitude that a site's range may have, and observations below them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from tasks.numerics.histogram import EDGES, FINITE_BINS, ExponentHistogram
from tasks.observation.observer import SiteObservation
from tasks.observation.request_amax import SiteValues

Ceilings: TypeAlias = Mapping[SiteValues, float]
"""The largest |x| that few requests cannot push a range beyond; what is absent has none."""


def stored_ceilings(ceilings: Ceilings) -> dict[str, float]:
    """Return the ceilings as a calibration set's reference keeps them."""
    return {values.stored: ceiling for values, ceiling in ceilings.items()}


def parse_ceilings(stored: Mapping[str, float]) -> Ceilings:
    """Read what `stored_ceilings` gave."""
    return {SiteValues.of(name): ceiling for name, ceiling in stored.items()}


def bounded(
    observed: Mapping[str, SiteObservation], ceilings: Ceilings
) -> dict[str, SiteObservation]:
    """Count values above a site's ceiling as the ceiling, as if clipped before they were observed.

    Every range rule and every search of smoothing scales then works below it. Sites without a
    ceiling stay as they are.
    """
    limits = {name: ceilings.get(SiteValues(name), np.inf) for name in observed}
    return {
        name: _clipped(site, limits[name]) if site.histogram.amax > limits[name] else site
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
