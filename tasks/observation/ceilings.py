"""Ceilings: the largest magnitude that a site's range may have, and observations below them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.histogram import EDGES, FINITE_BINS, ExponentHistogram
from tasks.observation.observer import SiteObservation
from tasks.observation.request_amax import SiteValues
from tasks.observation.scales import Scales

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


def bounded_by_channel(
    observed: Mapping[str, SiteObservation], deployed: Scales, ceilings: Ceilings
) -> dict[str, SiteObservation]:
    """Clip each channel at the ceiling of what the deployed smoothing scales make of it.

    A search for new smoothing scales then follows few requests no further than new ranges under
    the old ones would: not in any single channel either. Sites without both stay as they are.
    """
    bounds = dict(observed)
    for name, item in deployed.items():
        ceiling = ceilings.get(SiteValues(name, smoothed=True))
        if ceiling is None or item.smoothing_scales is None or name not in observed:
            continue
        if observed[name].channel_low.shape == item.smoothing_scales.shape:
            bounds[name] = _clipped_channels(observed[name], item.smoothing_scales * ceiling)
    return bounds


def _clipped_channels(site: SiteObservation, limits: NDArray[np.float32]) -> SiteObservation:
    """Clip extremes and kept values at limits [channels]; the histogram knows no channels."""
    return replace(
        site,
        channel_low=np.maximum(site.channel_low, -limits),
        channel_high=np.minimum(site.channel_high, limits),
        rows=np.clip(site.rows, -limits, limits) if site.rows.size else site.rows,
        pixels=np.clip(site.pixels, -limits, limits) if site.pixels.size else site.pixels,
    )


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
