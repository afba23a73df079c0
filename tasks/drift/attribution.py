"""What changed: the requests, the scales' fit, the precision that they need, the weights, or the model's worth."""

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
    """Every cause that the results show, the deepest first; exactly one when nothing is wrong or nothing is known.

    Scales are outgrown when the range detector says so, whatever fidelity says; precision when fidelity or safety fell
    though every scale fits, so that new scales alone will not help.
    """
    down = {one.detector for one in results if one.health is Health.DEGRADED}
    unknown = {one.detector for one in results if one.health is Health.INCONCLUSIVE}
    seen = {one.detector for one in results}
    causes = []
    if "weights" in down:
        causes.append(Cause.WEIGHTS_CHANGED)
    if "control" in down:
        causes.append(Cause.MODEL_OUTGROWN)
    if "range" in down:
        causes.append(Cause.SCALES_OUTGROWN)
    elif down & {"fidelity", "safety"}:
        causes.append(
            Cause.UNKNOWN if "range" in unknown or "range" not in seen else Cause.PRECISION_OUTGROWN
        )
    if causes:
        return tuple(causes)
    if not {"range", "fidelity"} <= seen or unknown & {"range", "fidelity"}:
        return (Cause.UNKNOWN,)
    return (Cause.INPUT_MOVED,) if "input" in down else (Cause.NOTHING,)
