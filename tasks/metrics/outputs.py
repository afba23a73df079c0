"""Checks of a model's outputs before anything is scored.

A NaN, an infinity or a missing axis has no score: it raises `BadInput`. So no mean can hide it, and
no comparison with NaN can read as "fine". Whoever judges turns that into the verdict `error`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infra.errors import BadInput


def finite_rows(
    outputs: ArrayLike, name: str, *, like: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the outputs as float64, [N, width].

    Args:
        outputs: one row a case.
        name: whose outputs they are, for the error.
        like: outputs of which these must have the shape.

    Raises:
        BadInput: for another shape, or a number that is not finite.
    """
    rows = np.asarray(outputs, np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise BadInput(
            f"the {name} outputs are {list(rows.shape)}: two axes are needed, cases and width"
        )
    if like is not None and rows.shape != np.shape(like):
        raise BadInput(
            f"the {name} outputs are {list(rows.shape)} and the reference's "
            f"{list(np.shape(like))}: run both on the same cases"
        )
    bad = np.asarray(~np.isfinite(rows).all(axis=1))
    if bad.any():
        raise BadInput(
            f"{first_bad_case(bad, name)} holds NaN or infinity: the engine is broken, rebuild it"
        )
    return rows


def first_bad_case(bad: NDArray[np.bool_], name: str) -> str:
    """Name the first bad case and say how many there are; `bad` is [N]."""
    return f"the {name} output of case {int(bad.argmax())} ({int(bad.sum())} of {bad.size} cases)"
