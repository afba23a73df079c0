"""Scaling that protects the few weights which meet large activations.

Lin et al., "AWQ: activation-aware weight quantization" (2024): inputs are scaled by their mean
magnitude to a power that is searched (equations 4 and 5). Clipping comes after: `weight/awq_clip`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.numerics.formats import widened
from tasks.numerics.quantized_weight import WeightScheme, quantize

ALPHAS = tuple(np.linspace(0.0, 1.0, 21).tolist())
"""As many as the paper's code tries."""
LIMIT = 1e4


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """The best scaling of one site."""

    smoothing_scales: NDArray[np.float32] | None  # [inputs] of the activation; None: none is better
    alpha: float
    error: float  # squared output error / squared output, over the observed rows


def search(
    rows: NDArray[np.float32],
    weights: Sequence[NDArray[np.float32]],
    scheme: WeightScheme,
    channel_mean: NDArray[np.float32] | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> Scaled:
    """Choose alpha by the output error of all layers that share the rows.

    The smoothing scales fold into the layer before, or become one Mul; the weights are multiplied
    by them.

    Args:
        rows: What was observed, [n, inputs].
        weights: One a layer, [outputs, inputs] each.
        scheme: How they are stored.
        channel_mean: Mean of |x| per input, [inputs], where more than the rows is known.
        alphas: Powers to try.

    Raises:
        BadInput: There are no rows.
    """
    if not len(rows):
        raise BadInput(
            "AWQ needs observed rows, and the site has none: observe the calibration set again"
        )
    stacked = np.concatenate(list(weights))
    mean = np.abs(rows).mean(axis=0) if channel_mean is None else channel_mean
    plain = replace(scheme, clipped=False)  # clipping comes after, by output error
    wide = widened(rows, stacked)
    energy = max(float(np.square(wide @ stacked.T).sum()), 1e-30)
    tried = []
    for alpha in alphas:
        s = smoothing_scales(mean, alpha)
        lost = stacked - quantize(stacked * s, plain).dequantized() / s
        error = float(np.square(wide @ lost.T).sum()) / energy
        tried.append(Scaled(s if alpha else None, alpha, error))
    return min(tried, key=lambda item: item.error)


def smoothing_scales(mean: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """Return mean|x|^alpha, [inputs], where the largest times the smallest is 1.

    It is 1 where the mean is 0.
    """
    alive = mean > 0
    if not alive.any():
        return np.ones_like(mean, dtype=np.float32)
    powers = np.where(alive, mean, mean[alive].mean()).astype(np.float64) ** alpha
    s = powers / np.sqrt(powers.max() * powers.min())
    return np.where(alive, np.clip(s, 1 / LIMIT, LIMIT), 1.0).astype(np.float32)
