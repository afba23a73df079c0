"""Our detectors over a stream of windows: those that act, and the input detector, which informs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.drift.windows import Bench, MeasuredWindow
from infra.identifiers import Digest
from tasks.drift import look
from tasks.drift.evidence import Evidence
from tasks.drift.look import Deployed, Measured
from tasks.records import Action, Decision, DetectorResult, Health, PastDecision

CHAMPION, SOURCE = "1", "full precision"
QUIET = (Action.KEEP, Action.INCONCLUSIVE)


def acting(bench: Bench, windows: Sequence[MeasuredWindow]) -> list[bool]:
    """Return in which windows the loop would act: evidence adds up, and nothing is repaired."""
    evidence: Mapping[str, Evidence] = {}
    past: tuple[PastDecision, ...] = ()
    acts = []
    for number, window in enumerate(windows):
        stale = look.stale_layers(past, CHAMPION)
        looked = look.looked(_measured(bench, window, stale), str(number), evidence)
        evidence, decision = looked.evidence, _decided(bench, window, looked.results, past, number)
        acts.append(decision.action not in QUIET)
        past = (_past(decision, number),)
    return acts


def informing(bench: Bench, windows: Sequence[MeasuredWindow]) -> list[bool]:
    """Return which windows the input detector calls moved."""
    evidence: Mapping[str, Evidence] = {}
    moved = []
    for number, window in enumerate(windows):
        measured = look.inputs(bench.subject.spec, window.requests, bench.reference, None, None)
        looked = look.looked([measured], str(number), evidence)
        evidence = looked.evidence
        moved.append(looked.results[0].health is Health.DEGRADED)
    return moved


def _measured(
    bench: Bench, window: MeasuredWindow, stale: Sequence[str]
) -> list[Measured | DetectorResult]:
    """Hand over what the bench has measured of the window, as the steps do."""
    spec, derived = bench.subject.spec, bench.champion.derived
    sensitivity = {
        ranked.site: ranked.loss for ranked in derived.ranking if ranked.loss is not None
    }
    deployed = Deployed(derived.scales, derived.reference, sensitivity)
    return [
        look.ranges(spec, window.requests, deployed, window.sites, window.clipping, stale),
        look.fidelity(spec, window.requests, window.scores),
        look.labelled_control(spec, window.labelled, window.correct)
        if look.are_enough(spec, window.labelled)
        else look.golden_control(spec, window.correct),
    ]


def _decided(
    bench: Bench,
    window: MeasuredWindow,
    results: Sequence[DetectorResult],
    past: Sequence[PastDecision],
    number: int,
) -> Decision:
    return look.decided(
        bench.subject.spec,
        results,
        past,
        window=Digest(str(number)),
        end=window.requests[-1].time,
        champion=CHAMPION,
        source=SOURCE,
    )


def _past(decision: Decision, number: int) -> PastDecision:
    """Return what the next window knows of this one, as the ledger would record it."""
    exceeded = {
        result.detector: tuple(finding.subject for finding in result.findings if finding.exceeded)
        for result in decision.results
    }
    return PastDecision(
        number=number,
        window=decision.window_digest,
        end=None,
        action=decision.action,
        champion=CHAMPION,
        source=SOURCE,
        builds=False,
        health={result.detector: result.health for result in decision.results},
        exceeded=exceeded,
        figures={},
    )
