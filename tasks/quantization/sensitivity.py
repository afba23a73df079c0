"""How much each site's quantization costs, from the observation alone: no pass over the data.

A local measure: what later layers make of an error is not in it. It separates sites of unlike cost (MiniLM without
smoothing: Spearman 0.84 with quantizing one site after the other) better than like ones (with smoothing: 0.43, though
the four worst sites are the same four).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.observation.error import squared_error
from tasks.observation.histogram import CENTRES, FINITE_BINS, ExponentHistogram
from tasks.observation.observer import SiteObservation
from tasks.observation.sites import Site
from tasks.quantization.choose import Choice, output_error
from tasks.quantization.weights import WeightScheme, quantize


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One site's cost."""

    site: str
    error: float  # squared output error / squared output; for convolutions, of input and weight instead
    macs_share: float  # of the multiply-accumulates per position of all sites


def rank(
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    choices: Mapping[str, Choice],
    weights: Mapping[str, Sequence[NDArray[np.float32]]],
    scheme: WeightScheme,
) -> tuple[Sensitivity, ...]:
    """Most sensitive first; `weights` are [outputs, inputs...] per layer of each site."""
    work = {site.name: float(sum(weight.size for weight in weights[site.name])) for site in sites}
    total = sum(work.values())
    found = [
        Sensitivity(
            site.name,
            _error(observed[site.name], choices[site.name], weights[site.name], scheme),
            work[site.name] / total,
        )
        for site in sites
    ]
    return tuple(sorted(found, key=lambda item: (-item.error, item.site)))


def _error(
    observed: SiteObservation, choice: Choice, weights: Sequence[NDArray[np.float32]], scheme: WeightScheme
) -> float:
    if not scheme.format.is_scaled:
        return 0.0
    if observed.rows.size:
        return output_error(observed, weights, choice, scheme)
    if choice.activation is None:
        return _weight_error(weights)
    noise = squared_error(observed.histogram, choice.activation.amax) / max(_mean_square(observed.histogram), 1e-30)
    return noise + _weight_error(weights)


def _weight_error(weights: Sequence[NDArray[np.float32]]) -> float:
    """Squared rounding error of the weights in INT8 / squared weights."""
    lost = sum(float(np.square(weight - quantize(weight, WeightScheme()).dequantized()).sum()) for weight in weights)
    return lost / max(sum(float(np.square(weight).sum()) for weight in weights), 1e-30)


def _mean_square(histogram: ExponentHistogram) -> float:
    centres = np.minimum(CENTRES, histogram.amax)
    return float((histogram.counts[:FINITE_BINS] * centres**2).sum() / max(histogram.total, 1))
