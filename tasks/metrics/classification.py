"""Scores of an image classifier's logits, [N, C]: agreement of two models, and accuracy.

Both raise `BadInput` for a NaN or an infinity.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infra.errors import BadInput
from tasks.metrics.outputs import finite_rows

Scores = NDArray[np.float64]
"""One number per case, [N]."""


def label_agreement(reference: ArrayLike, candidate: ArrayLike) -> Scores:
    """Return 1.0 where both models find the same class, else 0.0: [N, C], [N, C] -> [N]."""
    before = likeliest_classes(reference, "reference")
    after = likeliest_classes(candidate, "candidate", like=reference)
    return np.asarray(before == after, np.float64)


def accuracy(logits: ArrayLike, labels: ArrayLike) -> Scores:
    """Return 1.0 where the largest logit is the label's: [N, C], integer [N] -> [N].

    Raises:
        BadInput: when there are not as many labels as outputs.
    """
    classes, right = likeliest_classes(logits, "labelled"), np.asarray(labels, np.int64)
    if right.shape != classes.shape:
        raise BadInput(
            f"there are {right.size} labels for {classes.size} outputs: give one label a case"
        )
    return np.asarray(classes == right, np.float64)


def likeliest_classes(
    logits: ArrayLike, name: str, *, like: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Return the class of each row's largest logit, [N, C] -> [N]; `like` as in `finite_rows`."""
    return np.asarray(finite_rows(logits, name, like=like).argmax(axis=1), np.int64)
