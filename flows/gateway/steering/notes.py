"""Scores that were noted on the path of requests, until somebody looks at them."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

MOST = 20_000
"""Scores of one name that are kept; later ones are left out."""


class Notes:
    """Scores by name, in the order in which they came; any thread may add some."""

    def __init__(self) -> None:
        self._scores: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, *values: float) -> None:
        """Keep some scores, while there is room."""
        with self._lock:
            waiting = self._scores.setdefault(name, [])
            if len(waiting) < MOST:
                waiting.extend(values)

    def all(self) -> dict[str, NDArray[np.float64]]:
        """Return all that is kept."""
        with self._lock:
            return {name: np.array(values) for name, values in self._scores.items()}

    def taken(self) -> dict[str, NDArray[np.float64]]:
        """Return all that is kept, and keep it no more."""
        with self._lock:
            scores, self._scores = self._scores, {}
        return {name: np.array(values) for name, values in scores.items()}
