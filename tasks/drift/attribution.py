"""What changed: the requests, the scales' fit, the precision needed, the weights, or the model."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from tasks.records import DetectorResult, Health


class Cause(StrEnum):
    """What the results together say."""

    WEIGHTS_CHANGED = "weights changed"
    MODEL_OUTGROWN = "model outgrown: retrain"
    SCALES_OUTGROWN = "scales outgrown"
    PRECISION_OUTGROWN = "precision outgrown: the scales fit, and are too coarse for this traffic"
    INPUT_MOVED = "input moved, model fine"
    NOTHING = "nothing moved"
    UNKNOWN = "cannot be told"


def attribute(results: Sequence[DetectorResult]) -> tuple[Cause, ...]:
    """Return every cause that the results show, the deepest first.

    Exactly one when nothing is wrong or nothing is known. Scales are outgrown when the range
    detector says so, whatever fidelity says. Precision is outgrown when fidelity or safety fell
    though every scale fits: new scales alone will not help.
    """
    down = {result.detector for result in results if result.health is Health.DEGRADED}
    unknown = {result.detector for result in results if result.health is Health.INCONCLUSIVE}
    judged = {result.detector for result in results}
    causes = []
    if "weights" in down:
        causes.append(Cause.WEIGHTS_CHANGED)
    if "control" in down:
        causes.append(Cause.MODEL_OUTGROWN)
    if "range" in down:
        causes.append(Cause.SCALES_OUTGROWN)
    elif down & {"fidelity", "safety"}:
        causes.append(
            Cause.UNKNOWN
            if "range" in unknown or "range" not in judged
            else Cause.PRECISION_OUTGROWN
        )
    if causes:
        return tuple(causes)
    if not {"range", "fidelity"} <= judged or unknown & {"range", "fidelity"}:
        return (Cause.UNKNOWN,)
    return (Cause.INPUT_MOVED,) if "input" in down else (Cause.NOTHING,)
