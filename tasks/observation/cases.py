"""Which values of a batch belong to which case, and which are padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def by_case(
    values: NDArray[np.float32], cases: int, mask: NDArray[np.bool_] | None, channel_axis: int
) -> NDArray[np.float32] | None:
    """Return |x| as [cases, positions, channels], with padding as 0.

    None where rows belong to no known case.
    """
    if channel_axis == 1:
        values = np.moveaxis(values, 1, -1)
    channels = values.shape[-1]
    positions = values.size // max(channels, 1)
    owned = values.shape[0] == cases or (mask is not None and mask.size == positions)
    if not owned or positions % cases:
        return None
    magnitudes: NDArray[np.float32] = np.abs(values.reshape(cases, -1, channels))
    if mask is not None and mask.size == positions:
        magnitudes = np.where(mask.reshape(cases, -1, 1), magnitudes, np.float32(0))
    return magnitudes


def real_places(values: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return which positions of `by_case`'s values are no padding, [cases, positions].

    All are, where the mask is about other positions.
    """
    cases, positions = values.shape[:2]
    if mask is not None and mask.size == cases * positions:
        return mask.reshape(cases, positions)
    return np.ones((cases, positions), bool)
