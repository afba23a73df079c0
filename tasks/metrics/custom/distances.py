"""How far a candidate's outputs lie from full precision's, output by output, without a label."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.specs.custom import DISTANCES

Array = NDArray[np.generic]
Outputs = Mapping[str, Array]
_TINY = 1e-12


def cosine_of(reference: Array, candidate: Array, _: float = 0.0) -> float:
    """Return the cosine of both outputs, flattened; 1 where both are zero throughout."""
    before, after = _pair(reference, candidate)
    lengths = float(np.linalg.norm(before) * np.linalg.norm(after))
    if lengths < _TINY:
        return float(not before.any() and not after.any())
    return float(np.clip(before @ after / lengths, -1.0, 1.0))


def top_agreement(reference: Array, candidate: Array, _: float = 0.0) -> float:
    """Return the fraction of places whose largest entry along the last axis is the same."""
    before, after = _shaped(reference, candidate)
    if not before.ndim:
        return float(before == after)
    return float((before.argmax(axis=-1) == after.argmax(axis=-1)).mean())


def map_iou(reference: Array, candidate: Array, threshold: float) -> float:
    """Return the intersection over union of the places above a threshold; 1 where there are none.

    It compares maps of probabilities, such as those of a text or an object detector.
    """
    before, after = (side > threshold for side in _shaped(reference, candidate))
    union = int((before | after).sum())
    return float((before & after).sum() / union) if union else 1.0


def relative_error(reference: Array, candidate: Array, _: float = 0.0) -> float:
    """Return the largest difference over the reference's amax."""
    before, after = _pair(reference, candidate)
    amax = float(np.abs(before).max(initial=0.0))
    return float(np.abs(after - before).max(initial=0.0)) / max(amax, _TINY)


MEASURES: Mapping[str, Callable[[Array, Array, float], float]] = {
    "cosine": cosine_of,
    "agreement": top_agreement,
    "iou": map_iou,
    "relative-error": relative_error,
}
"""Measures of one output of one case, with a threshold.

Which is better is in `tasks.specs.custom.DISTANCES`.
"""


def worst_distance(
    kind: str,
    output: str | None,
    reference: Outputs,
    candidate: Outputs,
    *,
    threshold: float = 0.5,
) -> float:
    """Return a measure of one output, or the worst of all outputs in floats, of one case.

    Where there are none, it is of the whole numbers: classes and places have no distance.

    Raises:
        BadInput: for an output that there is not, or one without a distance.
    """
    names = _numbers(reference) if output is None else (output,)
    if output is not None and output not in reference:
        raise BadInput(f"a metric reads the output {output}, and there are {', '.join(reference)}")
    worst = min if DISTANCES[kind] == "higher" else max
    return worst(MEASURES[kind](reference[name], candidate[name], threshold) for name in names)


def _numbers(outputs: Outputs) -> tuple[str, ...]:
    floats = tuple(name for name, value in outputs.items() if value.dtype.kind == "f")
    return floats or tuple(name for name, value in outputs.items() if value.dtype.kind in "biu")


def _pair(reference: Array, candidate: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    before, after = (side.ravel() for side in _shaped(reference, candidate))
    ruled_out = _ruled_out(before, after)
    return np.where(ruled_out, 0.0, before), np.where(ruled_out, 0.0, after)


def _ruled_out(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the places where both sides are the same infinity, such as classes ruled out."""
    ruled_out: NDArray[np.bool_] = np.isinf(before) & (before == after)
    return ruled_out


def _shaped(reference: Array, candidate: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if reference.dtype.kind not in "biuf":
        raise BadInput(
            "an output is text, which has no distance: name another output, or give a metric with "
            "a function of your own"
        )
    before, after = (np.asarray(side).astype(np.float64) for side in (reference, candidate))
    if before.shape != after.shape:
        raise BadInput(
            f"an output has shape {list(after.shape)}, and full precision's {list(before.shape)}: "
            "a distance needs equal shapes; give a metric with a function of your own"
        )
    ruled_out = _ruled_out(before, after)
    for name, values in (("reference", before), ("candidate", after)):
        if not (np.isfinite(values) | ruled_out).all():
            raise BadInput(f"the {name} output holds NaN or infinity: the engine is broken")
    return before, after
