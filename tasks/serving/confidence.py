"""How sure a model is of its answers, and from where on a request is answered again higher up."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Measure = Literal["margin", "entropy"]


def confidence(scores: ArrayLike, measure: Measure) -> NDArray[np.float64]:
    """Return how sure each answer is, 0 to 1, [N].

    The margin is the difference of the two largest probabilities (Scheffer et al., 2001). The
    entropy is taken from 1 in units of its largest, log C (Shannon, 1948). A row that is not finite
    is not sure at all.

    Args:
        scores: Logits of C classes, [N, C].
        measure: Which of the two.
    """
    rows = np.asarray(scores, np.float64)
    if rows.shape[1] < 2:
        return np.ones(len(rows))
    sound: NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(axis=1))
    shifted = np.where(sound[:, None], rows, 0.0)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    if measure == "margin":
        ranked = np.partition(probabilities, -2, axis=1)
        values = ranked[:, -1] - ranked[:, -2]
    else:
        logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
        values = 1.0 + (probabilities * logs).sum(axis=1) / np.log(rows.shape[1])
    return np.where(sound, np.clip(values, 0.0, 1.0), 0.0)


def threshold(confidences: ArrayLike, budget: float) -> float:
    """Return the confidence below which answers are unsure.

    At most the budget's share of these confidences [N] lies below it: of equal ones all or none.
    """
    ranked = np.sort(np.asarray(confidences, np.float64))
    below = int(budget * len(ranked))
    if not below:
        return 0.0
    return float(ranked[below]) if below < len(ranked) else float("inf")
