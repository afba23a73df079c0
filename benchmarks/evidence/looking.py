"""One look of the shipped detectors at a window.

`tasks.drift.measure` measures it, and `tasks.drift.look` judges it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.engines.port import Engine
from infra.identifiers import Digest
from tasks.drift import look, measure
from tasks.drift.detectors.labelled import FullPrecision, Scores, correct, live
from tasks.drift.detectors.weights import judge_weights
from tasks.drift.evidence import Evidence
from tasks.drift.look import Deployed, Measured
from tasks.graphs.sites import Site
from tasks.profiles import Profile
from tasks.profiles.frozen import Frozen
from tasks.records import Decision, DetectorResult, GoldenSet, PastDecision, Request


class Watched(FullPrecision, Protocol):
    """Full precision, as far as a look at a window runs it; a registered model is one."""

    @property
    def source(self) -> str:
        """Digest of the full-precision graph."""

    @property
    def instrumented(self) -> Engine:
        """Full precision that also returns what each site reads."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the graph can be quantized."""

    @property
    def golden(self) -> GoldenSet:
        """Cases whose answers are known."""


@dataclass(frozen=True, slots=True, eq=False)
class TrialChampion:
    """A quantized model, and what it was built from."""

    version: str
    source: str  # digest of its full-precision graph
    engine: Engine = field(repr=False)
    deployed: Deployed = field(repr=False)
    calibration: Sequence[Request] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class LiveWindow:
    """The requests to look at, and what else is known of their hours."""

    digest: Digest
    requests: Sequence[Request] = field(repr=False)
    golden: Callable[[], Scores]  # full precision's on golden cases like them, [cases]
    traffic: tuple[Frozen, Profile] | None = None  # all of the champion's hours and of these


def look_at(
    model: Watched,
    champion: TrialChampion,
    window: LiveWindow,
    past: Sequence[PastDecision] = (),
    before: Mapping[str, Evidence] | None = None,
) -> tuple[Decision, Mapping[str, Evidence]]:
    """Look at a window through every detector, and decide.

    Args:
        model: Full precision as it is now.
        champion: What is deployed.
        window: What to look at.
        past: The decisions before, oldest first.
        before: The evidence so far, by detector; none without.

    Returns:
        The decision, and the evidence with this window.
    """
    weights = judge_weights(champion.source, model.source)
    stale = look.stale_layers(past, champion.version)
    detectors: Mapping[str, Callable[[], Sequence[Measured | DetectorResult]]] = {
        "input": lambda: [_inputs(model, champion, window)],
        "range": lambda: [_ranges(model, champion, window, stale)],
        "fidelity": lambda: _answers(model, champion, window),
        "control": lambda: [_control(model, window)],
    }
    measured = [item for name in look.detectors_after(weights) for item in detectors[name]()]
    looked = look.looked([weights, *measured], window.digest, before or {})
    decision = look.decided(
        model.spec,
        looked.results,
        past,
        window=window.digest,
        end=max(request.time for request in window.requests),
        champion=champion.version,
        source=model.source,
    )
    return decision, looked.evidence


def _inputs(
    model: Watched, champion: TrialChampion, window: LiveWindow
) -> Measured | DetectorResult:
    few = look.incomparable(model.spec, len(champion.calibration), len(window.requests))
    if few is not None:
        return few
    vectors = None
    if measure.has_embeddings(model.spec):
        before, after = (
            measure.embeddings(model.reference, model.inputs, side)
            for side in (champion.calibration, window.requests)
        )
        vectors = before, after
    return look.inputs(model.spec, window.requests, champion.calibration, vectors, window.traffic)


def _ranges(
    model: Watched, champion: TrialChampion, window: LiveWindow, stale: Sequence[str]
) -> Measured:
    payloads = [request.payload for request in window.requests]
    histograms, clipping = measure.activations(
        model.instrumented, model.sites, model.inputs, payloads, champion.deployed.scales
    )
    return look.ranges(model.spec, window.requests, champion.deployed, histograms, clipping, stale)


def _answers(model: Watched, champion: TrialChampion, window: LiveWindow) -> list[Measured]:
    payloads = [request.payload for request in window.requests]
    answers = measure.answers(model.spec, model.reference, champion.engine, model.inputs, payloads)
    measured = [look.fidelity(model.spec, window.requests, answers.scores)]
    if answers.have_outputs and (flipped := answers.flips(model.golden)) is not None:
        measured.append(look.safety(model.spec, window.requests, flipped))
    return measured


def _control(model: Watched, window: LiveWindow) -> Measured | DetectorResult:
    labelled = live(model, window.requests)
    if not look.are_enough(model.spec, labelled):
        return look.golden_control(model.spec, window.golden())
    scores = correct(model, [(request.payload, request.label or "") for request in labelled])
    return look.labelled_control(model.spec, labelled, scores)
