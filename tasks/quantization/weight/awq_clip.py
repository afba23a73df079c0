"""Clipping of weights where that lowers the error of the layer's output.

Lin et al., "AWQ: activation-aware weight quantization" (2024), section 4.1, which leaves the search
to its code (`auto_clip_layer`). Scaling comes before: `activation/awq_scales`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.formats import widened
from tasks.numerics.quantized_weight import WeightScheme, grouped, quantize

SHRINKS = tuple(np.linspace(1.0, 0.5, 11).tolist())


def clip(
    weight: NDArray[np.float32],
    rows: NDArray[np.float32],
    scheme: WeightScheme,
    shrinks: Sequence[float] = SHRINKS,
) -> NDArray[np.float32]:
    """Clip a weight in each group that shares a scale, where its own output error falls.

    Round the result with `scheme` less its `clipped`: the clip is then the largest magnitude.

    Args:
        weight: [outputs, inputs], with scales per channel or per block.
        rows: What the layer reads, [n, inputs], on the same side of the scaling.
        scheme: How the weight is stored.
        shrinks: Fractions of a group's largest magnitude to try.
    """
    groups = grouped(weight, scheme.granularity)
    size = groups.shape[-1]
    padded = np.pad(rows, ((0, 0), (0, groups.shape[1] * size - weight.shape[1])))
    blocks = widened(padded, weight).reshape(len(rows), -1, size).transpose(1, 0, 2)
    # [blocks, size, size]: w' G w is the squared output of the group.
    grams = blocks.transpose(0, 2, 1) @ blocks
    limit, plain = np.abs(groups).max(axis=-1), replace(scheme, clipped=False)
    best, least = limit, np.full(limit.shape, np.inf)
    for shrink in shrinks:
        bound = _spread(limit * shrink, size, weight.shape[1])
        rounded = quantize(np.clip(weight, -bound, bound), plain).dequantized()
        lost = grouped(weight - rounded, scheme.granularity).transpose(1, 0, 2)
        error = np.einsum("boi,boi->ob", lost @ grams, lost)
        better = error < least
        best, least = np.where(better, limit * shrink, best), np.where(better, error, least)
    bound = _spread(best, size, weight.shape[1])
    return np.clip(weight, -bound, bound)


def _spread(values: NDArray[np.floating], size: int, inputs: int) -> NDArray[np.float32]:
    """Repeat one value a group, [outputs, blocks], for each of its weights: [outputs, inputs]."""
    return np.repeat(values, size, axis=1)[:, :inputs].astype(np.float32)
