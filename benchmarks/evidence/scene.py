"""What a shift meets, and what was chosen in the end.

It meets champions with what they were calibrated on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.evidence.kinds.model_kind import ModelKind, Scores
from benchmarks.harness.ours import Candidate
from infra.engines import open_target
from infra.engines.port import Engine
from tasks.observation.observer import SiteObservation
from tasks.records import Action, Request


@dataclass(frozen=True, slots=True)
class CellChoice:
    """What the loop does in one cell, beside what every action would have left of the loss."""

    budget: float
    action: Action  # by the detectors
    taken: str  # "keep", or the candidate that the climb chose
    losses: Mapping[str, float]  # action -> mean loss on held-out cases
    # The model's weights changed: a build was asked for, whatever the old engine loses.
    due: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class SeededModel:
    """One kind of model, one seed: its champions, and what they were calibrated on."""

    kind: ModelKind
    seed: int
    count: int
    calibration: Sequence[Request] = field(repr=False)  # at home
    observed: Mapping[str, SiteObservation] = field(repr=False)
    champions: Mapping[str, Candidate] = field(repr=False)
    home: Mapping[str, Scores]  # what each champion loses where it was calibrated
    quality: Scores  # full precision's there


def load(candidate: Candidate) -> Engine:
    """Load the candidate on ONNX Runtime."""
    return open_target("onnxruntime-cpu").load(candidate.lowered("u8"))
