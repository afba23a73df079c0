"""Scores of embeddings, [N, D]: cosine a case, recall of a search, decisions of the safety head.

All raise `BadInput` for a NaN, an infinity or a row of zeros, which points nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infra.errors import BadInput
from tasks.metrics.outputs import finite_rows, first_bad_case

Scores = NDArray[np.float64]
"""One number per case, [N]."""


def cosine(reference: ArrayLike, candidate: ArrayLike) -> Scores:
    """Return the cosine of each pair of rows: [N, D], [N, D] -> [N] in -1..1."""
    left = directions(reference, "reference")
    right = directions(candidate, "candidate", like=reference)
    return np.asarray(np.clip(np.einsum("nd,nd->n", left, right), -1.0, 1.0))


def recall_at_k(
    queries: ArrayLike, passages: ArrayLike, relevant: Sequence[AbstractSet[int]], k: int = 5
) -> Scores:
    """Return the fraction of each query's relevant passages among its k nearest by cosine.

    Equal cosines go to the lower row number.

    Args:
        queries: [Q, D].
        passages: [P, D].
        relevant: one set of row numbers of `passages` a query; none is empty.
        k: how many passages a search returns.

    Returns:
        [Q] in 0..1.

    Raises:
        BadInput: when a query has no relevant passage or the widths differ.
    """
    nearest = nearest_passages(queries, passages, k)
    if len(relevant) != len(nearest) or not all(relevant):
        raise BadInput(
            "recall needs at least one relevant passage for every query: add it or remove the query"
        )
    return np.array(
        [
            len(wanted & set(returned.tolist())) / len(wanted)
            for wanted, returned in zip(relevant, nearest, strict=True)
        ]
    )


def nearest_passages(queries: ArrayLike, passages: ArrayLike, k: int) -> NDArray[np.int64]:
    """Return rows of the k passages of highest cosine: [Q, D], [P, D] -> [Q, min(k, P)]."""
    left, right = directions(queries, "query"), directions(passages, "passage")
    if left.shape[1] != right.shape[1]:
        raise BadInput(
            f"queries have width {left.shape[1]} and passages {right.shape[1]}: "
            "embed both with one model"
        )
    # Stable, so that ties do not depend on the machine.
    order = np.argsort(-(left @ right.T), axis=1, kind="stable")
    return np.asarray(order[:, :k], np.int64)


def safety_decisions(embedding: ArrayLike, weight: ArrayLike, bias: float) -> NDArray[np.bool_]:
    """Return which inputs the linear safety head blocks: [N, D], [D] -> [N].

    It blocks where `embedding @ weight + bias > 0`.

    Raises:
        BadInput: when the widths differ.
    """
    outputs, head = finite_rows(embedding, "safety input"), np.asarray(weight, np.float64)
    if head.shape != outputs.shape[1:]:
        raise BadInput(
            f"the safety head has weight {list(head.shape)}, and the embeddings are "
            f"{list(outputs.shape)}: train it on this model's embeddings"
        )
    scores = outputs @ head + bias
    if not np.isfinite(scores).all():
        raise BadInput("the safety head's weight or bias is not finite: export it again")
    return np.asarray(scores > 0)


def directions(
    embedding: ArrayLike, name: str, *, like: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the rows scaled to length 1, [N, D]; `like` is as in `finite_rows`."""
    rows = finite_rows(embedding, name, like=like)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        first = first_bad_case(np.asarray(lengths[:, 0] == 0), name)
        raise BadInput(f"{first} is all zeros: the engine is broken, rebuild it")
    return np.asarray(rows / lengths)
