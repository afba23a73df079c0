"""Scaling and clipping that protect the few weights which meet large activations.

Lin et al., "AWQ: activation-aware weight quantization" (2024): inputs are scaled by their mean magnitude to a power
that is searched (equations 4 and 5), then weights are clipped where that lowers the error of the layer's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.numerics.output_error import widened
from tasks.quantization.weight.quantize import WeightScheme, grouped, quantize

ALPHAS = tuple(np.linspace(0.0, 1.0, 21).tolist())
SHRINKS = tuple(np.linspace(1.0, 0.5, 11).tolist())
"""The paper's code tries 20 of each."""
LIMIT = 1e4


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """The best scaling found for one site."""

    smoothing_scales: (
        NDArray[np.float32] | None
    )  # [inputs] of the activation; None: no scaling is better
    alpha: float
    error: float  # squared output error / squared output, over the observed rows


def search(
    rows: NDArray[np.float32],
    weights: Sequence[NDArray[np.float32]],
    scheme: WeightScheme,
    channel_mean: NDArray[np.float32] | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> Scaled:
    """Choose alpha by the output error over rows [n, inputs] of all layers [outputs, inputs] that share them.

    `channel_mean` [inputs] is the mean of |x| per input where more than the rows is known. The smoothing_scales fold into the
    layer before, or become one Mul; the weights are multiplied by them. Raises `BadInput` without rows.
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
    found = []
    for alpha in alphas:
        s = factors(mean, alpha)
        lost = stacked - quantize(stacked * s, plain).dequantized() / s
        found.append(
            Scaled(s if alpha else None, alpha, float(np.square(wide @ lost.T).sum()) / energy)
        )
    return min(found, key=lambda item: item.error)


def factors(mean: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """mean|x|^alpha [inputs], so normalised that the largest and the smallest have the product 1; 1 where mean is 0."""
    alive = mean > 0
    if not alive.any():
        return np.ones_like(mean, dtype=np.float32)
    powers = np.where(alive, mean, mean[alive].mean()).astype(np.float64) ** alpha
    s = powers / np.sqrt(powers.max() * powers.min())
    return np.where(alive, np.clip(s, 1 / LIMIT, LIMIT), 1.0).astype(np.float32)


def clip(
    weight: NDArray[np.float32],
    rows: NDArray[np.float32],
    scheme: WeightScheme,
    shrinks: Sequence[float] = SHRINKS,
) -> NDArray[np.float32]:
    """The weight [outputs, inputs], clipped in each group that shares a scale where its own output error falls.

    Rows [n, inputs] and weight are on the same side of the scaling. Round the result with `scheme` less its `clipped`:
    the clip is then the largest magnitude. Section 4.1 of the paper leaves the search to its code (`auto_clip_layer`).
    """
    groups = grouped(weight, scheme.granularity)
    size = groups.shape[-1]
    if groups.shape[0] != len(weight):
        raise BadInput(
            "one scale a tensor cannot be clipped by the error of single outputs: use scales per channel"
        )
    padded = np.pad(rows, ((0, 0), (0, groups.shape[1] * size - weight.shape[1])))
    blocks = widened(padded, weight).reshape(len(rows), -1, size).transpose(1, 0, 2)
    grams = (
        blocks.transpose(0, 2, 1) @ blocks
    )  # [blocks, size, size]: w' G w is the squared output of the group
    limit, plain = np.abs(groups).max(axis=-1), replace(scheme, clipped=False)
    best, least = limit, np.full(limit.shape, np.inf)
    for shrink in shrinks:
        bound = _spread(limit * shrink, size, weight.shape[1])
        tried = quantize(np.clip(weight, -bound, bound), plain).dequantized()
        lost = grouped(weight - tried, scheme.granularity).transpose(1, 0, 2)
        error = np.einsum("boi,boi->ob", lost @ grams, lost)
        better = error < least
        best, least = np.where(better, limit * shrink, best), np.where(better, error, least)
    bound = _spread(best, size, weight.shape[1])
    return np.clip(weight, -bound, bound)


def _spread(values: NDArray[np.floating], size: int, inputs: int) -> NDArray[np.float32]:
    """One value a group, [outputs, blocks], for each of its weights: [outputs, inputs]."""
    return np.repeat(values, size, axis=1)[:, :inputs].astype(np.float32)
