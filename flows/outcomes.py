"""What a flow returns: enough to print, to test and to show in the console."""

from dataclasses import dataclass
from enum import StrEnum

from tasks.records import Decision, GateReport


class Status(StrEnum):
    """How a run ended."""

    KEPT = "kept"  # nothing had to be done
    # Something degraded, and acting waits for confirmation, the cooldown or the build budget.
    HELD = "held"
    PROMOTED = "promoted"
    AWAITING_APPROVAL = "awaiting-approval"
    DELIVERING = "delivering"  # a candidate passed, and takes traffic over step by step
    REFUSED = "refused"  # no candidate passed its gates
    RETRAINING_REQUESTED = "retraining-requested"
    # Too little traffic to tell, or nothing that could be judged here.
    INCONCLUSIVE = "inconclusive"
    ALREADY_DONE = "already-done"  # another run decided, or acts on, the same window


@dataclass(frozen=True, slots=True)
class JudgedCandidate:
    """One recipe that was built and judged."""

    recipe: str
    reports: tuple[GateReport, ...]
    reason: str  # why it did not pass, or what it reached
    diagnostics: tuple[str, ...] = ()  # on sites that were left alone, and on scales to look at


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The end of a maintenance or re-quantization run."""

    model: str
    status: Status
    reason: str  # one sentence
    version: str | None = None  # of the registry: what was promoted, waits or was refused
    release: str | None = None
    candidates: tuple[JudgedCandidate, ...] = ()
    decision: Decision | None = None
    report: str | None = None  # where the drift report lies
    notes: tuple[str, ...] = ()  # what the verdicts do not cover

    @property
    def sentence(self) -> str:
        """The end, and its reason."""
        return f"{self.status}: {self.reason}"

    @property
    def refused(self) -> bool:
        """Whether the answer was no."""
        return self.status is Status.REFUSED
