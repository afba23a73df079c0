"""How close a candidate's outputs are to full precision's, by the score that suits the task."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.metrics.classification import label_agreement
from tasks.metrics.embeddings import cosine
from tasks.specs.traits import TRAITS, Task


def fidelity_metric(task: Task) -> str:
    """Return what `fidelity` measures for this task: "cosine" or "agreement"."""
    return TRAITS[task].fidelity


def fidelity(task: Task, reference: ArrayLike, candidate: ArrayLike) -> NDArray[np.float64]:
    """Return how close each candidate output is to the reference's, where 1 is identical.

    Outputs are embeddings [N, D] of a text or image encoder, or logits [N, C] of an image
    classifier; the result is [N]. Embeddings have a cosine, -1..1. Logits agree or not, 1 or 0.

    Raises:
        BadInput: when shapes differ or either side is not finite.
    """
    score = cosine if fidelity_metric(task) == "cosine" else label_agreement
    return score(reference, candidate)
