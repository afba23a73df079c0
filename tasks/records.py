"""The values that pass between stages.

They are frozen, with no behaviour but what follows from their fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from infra.identifiers import Digest, Key, ModelName, RequestId
from infra.stores import layout

Tensor = NDArray[np.float32]
Record = Mapping[str, NDArray[np.generic]]
"""Named tensors of any dtype, without the batch dimension."""
Payload = str | Tensor | Record
"""What a request carries: a text, one float32 tensor without the batch dimension, or a record."""
UNREADABLE = "unreadable: "
"""Before the reason, in what was dropped: the model cannot read such a request."""
UNKNOWN = "unknown"
"""The domain and the language of a request that names none."""


@dataclass(frozen=True, slots=True)
class Request:
    """One live request as it was served."""

    request_id: RequestId
    time: datetime  # timezone-aware, UTC
    tenant: str
    domain: str
    language: str
    payload: Payload
    latency_ms: float | None = None
    model_version: str | None = None
    decision: str | None = None
    label: str | None = None  # the right answer, where somebody supplied one later


@dataclass(frozen=True, slots=True)
class Sample:
    """A bounded, representative draw from traffic: a window's sample, or a calibration set."""

    requests: tuple[Request, ...]
    digest: Digest  # SHA-256 over the sorted request ids and payloads
    seen: int  # requests offered before sampling
    dropped: Mapping[
        str, int
    ]  # reason -> count: duplicate, tenant-cap, near-duplicate, quarantined, ...
    weights: Mapping[RequestId, float] = field(default_factory=dict)
    """Distinct requests that each request stands for."""


class CaseKind(StrEnum):
    """What a golden case is used for."""

    PLAIN = "plain"  # fidelity (or accuracy, where it has a label)
    QUERY = "query"  # retrieval: `relevant` names the passages it must find
    PASSAGE = "passage"  # retrieval: the fixed corpus
    SAFETY = "safety"  # label is "allowed" or "blocked"
    SUMMARY = "summary"  # of a language model: label is the right summary
    ANSWER = "answer"  # of a language model: label is the right answer
    DIALOGUE = (
        "dialogue"  # of a language model: the payload ends where the next reply begins, the label
    )
    # Of a language model: label holds one expression a line that must hold once the program ran.
    CODE = "code"


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One fixed evaluation case."""

    case_id: str
    payload: Payload
    domain: str
    language: str
    kind: CaseKind = CaseKind.PLAIN
    label: str | None = None
    relevant: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """The fixed evaluation cases of one model; never overlaps a calibration set."""

    cases: tuple[GoldenCase, ...]
    digest: Digest
    safety_weight: Tensor | None = None  # [embedding]; the shipped linear safety head
    safety_bias: float = 0.0


class Verdict(StrEnum):
    """The outcome of a gate: no data is never `passed`, and `error` could not be judged.

    `suspicious` is implausibly better than full precision: what is measured is to be looked at.
    """

    PASSED = "passed"
    FAILED = "failed"
    SUSPICIOUS = "suspicious"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its confidence interval, of 95 % unless its maker states another."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GateResult:
    """One check of one metric on one group of golden cases."""

    # As in budgets (tasks/specs/spec.py), or of safety and costs: safety-flips, latency-ratio,
    # size-ratio, peak-memory-ratio.
    metric: str
    group: str  # "all", "domain=code", "language=ja"
    binding: bool  # False: reported only, because no such traffic is served
    verdict: Verdict
    estimate: Interval | None
    budget: float
    direction: str  # "at least" or "at most"; "reported" of a figure that nothing judges
    count: int  # cases judged
    reason: str  # one sentence with the figures
    # Of a ratio of costs: the candidate's own side, in bytes, seconds or tokens a second.
    measured: float | None = None

    @property
    def reported(self) -> bool:
        """Return whether it is a figure for the reader, which nothing judges."""
        return self.direction == "reported"


@dataclass(frozen=True, slots=True)
class FlippedCase:
    """One golden case that a candidate answers otherwise; texts are redacted and cut."""

    case_id: str
    domain: str
    language: str
    input: str  # of what is no text, its shape
    label: str  # the right answer, "" where nobody knows it
    full_precision: str
    candidate: str


@dataclass(frozen=True, slots=True)
class FlippedAnswers:
    """Cases that one metric counts against a candidate."""

    metric: str  # flips, safety-flips, exact-match-drop, token-error-rate, ...
    count: int
    cases: int  # that the metric applies to
    examples: tuple[FlippedCase, ...]  # some of them, the worst


LAYER_PRECISION = "layer-precision"
"""The gate that holds what runs against the format that was asked for."""
TTFT = "ttft-ratio"
PREFILL_THROUGHPUT, DECODE_THROUGHPUT = "prefill-throughput-ratio", "decode-throughput-ratio"
OF_GENERATION = (TTFT, PREFILL_THROUGHPUT, DECODE_THROUGHPUT)
"""The gates on how fast a language model writes."""


def _beside(gate: GateResult) -> tuple[str, str]:
    """Return a candidate's own figure, and what it is of full precision's."""
    ratio = "unknown" if gate.estimate is None else f"{gate.estimate.value:.2f} x"
    figure = gate.measured or 0.0
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}", ratio


@dataclass(frozen=True, slots=True)
class GateReport:
    """All gates of one candidate on one target."""

    target: str
    gates: tuple[GateResult, ...]
    flips: tuple[FlippedAnswers, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Return the worst of the binding gates; none at all is inconclusive."""
        verdicts = {gate.verdict for gate in self.gates if gate.binding}
        doubts = (Verdict.SUSPICIOUS, Verdict.INCONCLUSIVE)
        for worst in (Verdict.ERROR, Verdict.FAILED, *doubts):
            if worst in verdicts:
                return worst
        return Verdict.PASSED if verdicts else Verdict.INCONCLUSIVE

    @property
    def layer_precision(self) -> GateResult | None:
        """Return what is known of what runs in what; None where no short format was asked for."""
        return next((gate for gate in self.gates if gate.metric == LAYER_PRECISION), None)

    @property
    def generation_speed(self) -> str | None:
        """Say how fast a language model writes there, in absolute figures; None of another kind."""
        gates = {gate.metric: gate for gate in self.gates if gate.measured is not None}
        if not gates.keys() >= {*OF_GENERATION}:
            return None
        first, prefill, decode = (_beside(gates[metric]) for metric in OF_GENERATION)
        return (
            f"time to first token {first[0]} s ({first[1]}), prefill {prefill[0]} tokens/s "
            f"({prefill[1]}), decode {decode[0]} tokens/s ({decode[1]}); of full precision's in "
            "brackets"
        )

    @property
    def refusals(self) -> tuple[GateResult, ...]:
        """Return the binding gates that did not pass."""
        return tuple(
            gate for gate in self.gates if gate.binding and gate.verdict is not Verdict.PASSED
        )


class Action(StrEnum):
    """What the loop decided to do (ADR 29)."""

    KEEP = "keep"
    RECALIBRATE = "recalibrate"
    FALLBACK = "fallback"
    REQUEST_RETRAINING = "request-retraining"
    INCONCLUSIVE = "inconclusive"
    # Something degraded, and acting waits: unconfirmed, cooling down, or the build budget is spent.
    HOLD = "hold"


# Ledger entries, run tags, report keys and Evidently snapshots were first written with "lens".
# What is stored keeps that word, so that old and new documents are read and plotted alike.
STORED_DETECTOR, STORED_DETECTORS = "lens", "lenses"


class Health(StrEnum):
    """What one detector says."""

    FINE = "fine"
    DEGRADED = "degraded"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Finding:
    """One measured statement of a detector: a layer, a domain, a feature."""

    subject: str  # "layer conv2", "language=ja", "length"
    value: float
    limit: float
    exceeded: bool
    text: str  # one sentence with the figures


@dataclass(frozen=True, slots=True)
class DetectorResult:
    """What one detector found in one window."""

    detector: str  # weights, input, range, fidelity, safety, control
    health: Health
    findings: tuple[Finding, ...]
    count: int  # requests or cases looked at
    evidence: str = ""  # key of the document with the evidence so far
    reference: str = ""  # digest of what it compared with


@dataclass(frozen=True, slots=True)
class Decision:
    """Why the loop did or did not act; kept for every run."""

    action: Action
    reasons: tuple[str, ...]
    results: tuple[DetectorResult, ...]
    window_digest: Digest
    attribution: str = ""  # what changed, in one phrase
    # Why a build that the table asks for is not started; "" where it is, or none is asked for.
    held: str = ""


@dataclass(frozen=True, slots=True)
class PastDecision:
    """One decision of the ledger, as far as the next one depends on it."""

    number: int  # of the ledger entry
    window: str
    end: datetime | None  # of the window, in traffic time
    action: Action
    champion: str | None  # version
    source: str  # digest of the full-precision graph
    builds: bool  # whether it started a build
    health: Mapping[str, Health]  # detector -> health
    exceeded: Mapping[str, tuple[str, ...]]  # detector -> subjects
    figures: Mapping[
        str, tuple[str, float, float]
    ]  # detector -> subject, value and limit of its first finding


@dataclass(frozen=True, slots=True)
class SampleRef:
    """A stored sample: a traffic window's, or a calibration set."""

    model: ModelName
    digest: Digest
    key: Key  # in the object store
    rows: int
    seen: int  # requests offered
    dropped: Mapping[str, int]  # reason -> count
    groups: tuple[str, ...]  # "domain=code", "language=ja": what it holds
    start: str = ""  # ISO 8601, of the window
    end: str = ""
    ceilings: Mapping[str, float] = field(
        default_factory=dict
    )  # site -> |x| beyond which too few requests reach
    # Digest of what it was drawn from: a window of traffic files, a calibration set of a window.
    source: str = ""
    reading: str = ""  # digest of what the model reads, which all its requests were held against

    @property
    def left_out(self) -> str | None:
        """Say which requests are not in it because the model cannot read them; None for none."""
        counts = {
            reason.removeprefix(UNREADABLE): count
            for reason, count in self.dropped.items()
            if reason.startswith(UNREADABLE)
        }
        if not counts:
            return None
        reasons = "; ".join(f"{count} x {reason}" for reason, count in counts.items())
        total = sum(counts.values())
        requests = "1 request is" if total == 1 else f"{total} requests are"
        return f"{requests} left out that the model cannot read: {reasons}"


@dataclass(frozen=True, slots=True)
class ThinWindow:
    """A window with too few requests to be looked at; nothing of it is stored."""

    model: ModelName
    digest: Digest  # of its hours and the traffic files that meet them
    rows: int  # requests that a sample of it would have
    minimum: int  # requests that the spec demands
    start: str = ""  # ISO 8601; "" without any traffic
    end: str = ""

    @property
    def told(self) -> str:
        """Why nothing can be told from it, as a clause."""
        return f"the window holds {self.rows} requests, and {self.minimum} are needed to look at it"


@dataclass(frozen=True, slots=True)
class CandidateRef:
    """A quantized graph that was built and stored, and has yet to be judged or released."""

    model: ModelName
    candidate_id: (
        Digest  # SHA-256 over everything it follows from; the same inputs give the same candidate
    )
    recipe: str
    calibration: Digest  # digest of the calibration set
    excluded_nodes: tuple[str, ...]  # sites in floating point
    quantized_share: float  # of all float32 numbers of the graph: those in fewer bits
    diagnostics: tuple[
        str, ...
    ] = ()  # sentences on sites that were left alone, and on scales to look at

    def key(self, name: str) -> Key:
        """Return where one of its files lies in the object store."""
        return layout.candidate_file(self.model, self.candidate_id, name)


@dataclass(frozen=True, slots=True)
class EngineRef:
    """One built engine of a candidate."""

    target: str
    size: int  # bytes
    seconds: float  # of building; 0 when it was built before
    executable: bool
    reason: str  # why it cannot run here, where it cannot


@dataclass(frozen=True, slots=True)
class ReleaseRef:
    """A version of the registry and the release it carries."""

    model: ModelName
    version: str
    digest: Digest


__all__ = [
    "Action",
    "CandidateRef",
    "CaseKind",
    "Decision",
    "DetectorResult",
    "EngineRef",
    "Finding",
    "GateReport",
    "GateResult",
    "GoldenCase",
    "GoldenSet",
    "Health",
    "Interval",
    "PastDecision",
    "Payload",
    "ReleaseRef",
    "Request",
    "Sample",
    "SampleRef",
    "Tensor",
    "Verdict",
]
