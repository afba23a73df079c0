"""Per-case scores from model outputs; drift watches them on live samples, validation on golden cases.

Outputs are `embedding` [N, D] of a text or image encoder or `logits` [N, C] of an image classifier.
A NaN, an infinity or a zero embedding has no score: it raises `BadInput`, so that no mean can hide it and no
comparison with NaN can read as "fine". Whoever judges turns that into the verdict `error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infra.errors import BadInput
from tasks.specs.traits import TRAITS, Task

Scores = NDArray[np.float64]
"""One number per case, [N]."""


def fidelity_metric(task: Task) -> str:
    """What `fidelity` measures for this task: "cosine" or "agreement"."""
    return TRAITS[task].fidelity


def fidelity(task: Task, reference: ArrayLike, candidate: ArrayLike) -> Scores:
    """How close each candidate output is to the reference's: [N, D], [N, D] -> [N], 1 is identical.

    Embeddings: cosine, -1..1. Logits: 1.0 where both have the same largest class, else 0.0.
    Raises `BadInput` when shapes differ or either side is not finite.
    """
    if TRAITS[task].fidelity == "cosine":
        return cosine(reference, candidate)
    agree = classes(reference, "reference") == classes(candidate, "candidate", like=reference)
    return np.asarray(agree, np.float64)


def cosine(reference: ArrayLike, candidate: ArrayLike) -> Scores:
    """Cosine of each pair of rows: [N, D], [N, D] -> [N] in -1..1; raises `BadInput` as `fidelity` does."""
    left = directions(reference, "reference")
    right = directions(candidate, "candidate", like=reference)
    return np.asarray(np.clip(np.einsum("nd,nd->n", left, right), -1.0, 1.0))


def safety_decisions(embedding: ArrayLike, weight: ArrayLike, bias: float) -> NDArray[np.bool_]:
    """Which inputs the linear safety head blocks: [N, D], [D] -> [N], True where `embedding @ weight + bias > 0`.

    Raises `BadInput` when widths differ or a number is not finite.
    """
    outputs, head = finite_rows(embedding, "safety input"), np.asarray(weight, np.float64)
    if head.shape != outputs.shape[1:]:
        raise BadInput(
            f"the safety head has weight {list(head.shape)}, and the embeddings are {list(outputs.shape)}: "
            "train it on this model's embeddings"
        )
    scores = outputs @ head + bias
    if not np.isfinite(scores).all():
        raise BadInput("the safety head's weight or bias is not finite: export it again")
    return np.asarray(scores > 0)


def accuracy(logits: ArrayLike, labels: ArrayLike) -> Scores:
    """1.0 where the largest logit is the label's: [N, C], integer [N] -> [N]; raises `BadInput` as `fidelity` does."""
    found, right = classes(logits, "labelled"), np.asarray(labels, np.int64)
    if right.shape != found.shape:
        raise BadInput(
            f"there are {right.size} labels for {found.size} outputs: give one label a case"
        )
    return np.asarray(found == right, np.float64)


def recall_at_k(
    queries: ArrayLike, passages: ArrayLike, relevant: Sequence[AbstractSet[int]], k: int = 5
) -> NDArray[np.float64]:
    """Share of each query's relevant passages among its k nearest by cosine: [Q, D], [P, D] -> [Q] in 0..1.

    `relevant` holds one non-empty set of row numbers of `passages` a query. Equal scores go to the lower row number.
    Raises `BadInput` when a query has no relevant passage, widths differ or a number is not finite.
    """
    nearest = nearest_passages(queries, passages, k)
    if len(relevant) != len(nearest) or not all(relevant):
        raise BadInput(
            "recall needs at least one relevant passage for every query: add it or remove the query"
        )
    return np.array(
        [
            len(rows & set(found.tolist())) / len(rows)
            for rows, found in zip(relevant, nearest, strict=True)
        ]
    )


def nearest_passages(queries: ArrayLike, passages: ArrayLike, k: int) -> NDArray[np.int64]:
    """Rows of the k passages of highest cosine, best first: [Q, D], [P, D] -> [Q, min(k, P)]."""
    left, right = directions(queries, "query"), directions(passages, "passage")
    if left.shape[1] != right.shape[1]:
        raise BadInput(
            f"queries have width {left.shape[1]} and passages {right.shape[1]}: embed both with one model"
        )
    order = np.argsort(
        -(left @ right.T), axis=1, kind="stable"
    )  # stable: ties must not depend on the machine
    return np.asarray(order[:, :k], np.int64)


def classes(logits: ArrayLike, name: str, *, like: ArrayLike | None = None) -> NDArray[np.int64]:
    """The largest class of each row, [N, C] -> [N]."""
    return np.asarray(finite_rows(logits, name, like=like).argmax(axis=1), np.int64)


def directions(
    embedding: ArrayLike, name: str, *, like: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Rows scaled to length 1, [N, D]; raises `BadInput` for a row of zeros, which points nowhere."""
    rows = finite_rows(embedding, name, like=like)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise BadInput(
            f"{_first(np.asarray(lengths[:, 0] == 0), name)} is all zeros: the engine is broken, rebuild it"
        )
    return np.asarray(rows / lengths)


def finite_rows(
    outputs: ArrayLike, name: str, *, like: ArrayLike | None = None
) -> NDArray[np.float64]:
    """The outputs as float64 [N, width], of the shape of `like` where given; raises `BadInput` otherwise."""
    rows = np.asarray(outputs, np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise BadInput(
            f"the {name} outputs are {list(rows.shape)}: two axes are needed, cases and width"
        )
    if like is not None and rows.shape != np.shape(like):
        raise BadInput(
            f"the {name} outputs are {list(rows.shape)} and the reference's {list(np.shape(like))}: "
            "run both on the same cases"
        )
    bad = np.asarray(~np.isfinite(rows).all(axis=1))
    if bad.any():
        raise BadInput(
            f"{_first(bad, name)} holds NaN or infinity: the engine is broken, rebuild it"
        )
    return rows


def _first(bad: NDArray[np.bool_], name: str) -> str:
    return f"the {name} output of case {int(bad.argmax())} ({int(bad.sum())} of {bad.size} cases)"
