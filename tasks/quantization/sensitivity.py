"""How much each site's quantization costs, from the observation alone: no pass over the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.observation.observer import SiteObservation
from tasks.observation.scales import Quantizer
from tasks.observation.sites import Site
from tasks.quantization.smoothing import fake_quantize, output_error


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One site's cost."""

    site: str
    error: float  # squared output error / squared output; for convolutions, of the input instead
    macs_share: float  # of the multiply-accumulates per position of all sites


def rank(
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    quantizers: Mapping[str, Quantizer],
    weights: Mapping[str, Sequence[NDArray[np.float32]]],
) -> tuple[Sensitivity, ...]:
    """Most sensitive first; `weights` are [outputs, inputs...] per layer of each site."""
    work = {site.name: float(sum(weight.size for weight in weights[site.name])) for site in sites}
    total = sum(work.values())
    found = [
        Sensitivity(
            site.name, _error(observed[site.name], quantizers[site.name], weights[site.name]), work[site.name] / total
        )
        for site in sites
    ]
    return tuple(sorted(found, key=lambda item: (-item.error, item.site)))


def _error(observed: SiteObservation, quantizer: Quantizer, weights: Sequence[NDArray[np.float32]]) -> float:
    if observed.rows.size:
        return output_error(observed.rows, np.concatenate(list(weights)), quantizer)
    weight = weights[0]
    scale = np.abs(weight.reshape(len(weight), -1)).max(axis=1).clip(min=1e-12) / 127
    restored = fake_quantize(weight, scale.reshape(-1, *[1] * (weight.ndim - 1)).astype(np.float32))
    lost = float(np.square(weight - restored).sum() / np.square(weight).sum())
    return lost + quantizer.scale**2 / 12 / max(quantizer.amax**2 / 9, 1e-30)
