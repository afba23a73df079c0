"""Sums of capital that is kept as its logarithm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def log_mean(logs: NDArray[np.floating] | tuple[float, ...]) -> float:
    """Return the log of the mean of exp(logs [K]), K >= 1, without overflow."""
    values = np.asarray(logs, np.float64)
    top = float(values.max())
    return top + float(np.log(np.exp(values - top).mean()))
