"""Scheduled maintenance: sample the window, ask every detector, decide, act on the decision."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from flows.intake import take_in_new
from flows.measures import write_measures
from flows.orchestration.identity import acting
from flows.orchestration.orchestrated import call, leave_link, leave_table, orchestrated
from flows.orchestration.progress import Progress
from flows.outcomes import RunOutcome, Status
from flows.requantize import requantize
from infra.access.roles import Role
from infra.settings import settings
from tasks.drift import steps as drift_steps
from tasks.drift.decision import recalibrates, undecided, wants_retraining
from tasks.drift.evidence_store import basis
from tasks.drift.look import detectors_after, stale_layers
from tasks.drift.report.publish import written_page
from tasks.models.catalog import open_model
from tasks.promotion import history
from tasks.promotion import steps as promotion_steps
from tasks.records import (
    Action,
    Decision,
    DetectorResult,
    Health,
    PastDecision,
    ReleaseRef,
    SampleRef,
    ThinWindow,
)
from tasks.sampling import steps as sampling_steps


@orchestrated("maintenance", "maintain-{model}", role=Role.OPERATOR, yields=True)
def maintenance(model: str, until: datetime | None = None) -> RunOutcome:
    """Keep one model right on the newest window; again, or twice at once, changes nothing more.

    Args:
        model: Name of a registered model, such as minilm.
        until: End of the traffic window; empty is the newest request.
    """
    started = time.perf_counter()
    progress = Progress(f"maintain {model}")
    take_in_new(model, progress)
    champion = promotion_steps.read_champion(model)
    weights = None if champion is None else drift_steps.look_at_weights(champion)
    progress.step("sampling the traffic window", 0.1)
    sampled = sampling_steps.sample_window(model, until)
    if isinstance(sampled, ThinWindow) and (
        weights is None or weights.health is not Health.DEGRADED
    ):
        return _leave_undecided(sampled, champion, weights, started)
    window = sampling_steps.newest_sample(sampled) if isinstance(sampled, ThinWindow) else sampled
    if champion is None or weights is None:
        with progress.the_rest():
            return call(requantize, model, reason="the first champion", window=window.key)
    source = open_model(model).source
    before, report = (
        history.settled(model, window.digest, source, champion),
        written_page(window),
    )
    if before is not None and report is not None:
        write_measures(model, flow="maintenance", seconds=time.perf_counter() - started)
        return replace(_decided_before(model, before), decision=before, report=report)
    past = history.decisions_before(model, window.digest, source)
    if isinstance(sampled, ThinWindow):
        decision = _decide_by_weights(sampled, window, champion, weights, past)
    else:
        decision = _decide(window, champion, weights, past, progress)
    if window.left_out is not None:
        decision = replace(decision, reasons=(*decision.reasons, f"{window.left_out}."))
    first = promotion_steps.record_decision(
        model, decision, acting(), champion, window, basis(window, decision)
    )
    progress.step("writing the drift report", 0.8)
    report = drift_steps.write_report(window, champion, decision, past)
    _leave_artifacts(model, decision, report)
    write_measures(
        model, results=decision.results, flow="maintenance", seconds=time.perf_counter() - started
    )
    with progress.the_rest():
        outcome = _act(window, source, decision, first)
    progress.step(outcome.reason, 1.0)
    return replace(outcome, decision=decision, report=report)


def _leave_undecided(
    window: ThinWindow, champion: ReleaseRef | None, weights: DetectorResult | None, started: float
) -> RunOutcome:
    """Record that nothing can be told, a decision too, once for the same traffic."""
    decision = undecided(window, [weights] if weights else [])
    promotion_steps.record_decision(
        window.model, decision, acting(), champion, window, basis(window, decision)
    )
    write_measures(window.model, flow="maintenance", seconds=time.perf_counter() - started)
    return RunOutcome(window.model, Status.INCONCLUSIVE, decision.reasons[0], decision=decision)


def _decide(
    window: SampleRef,
    champion: ReleaseRef,
    weights: DetectorResult,
    past: Sequence[PastDecision],
    progress: Progress,
) -> Decision:
    results, stale = [weights], stale_layers(past, champion.version)
    looks: Mapping[str, tuple[str, Callable[[], list[DetectorResult]]]] = {
        "input": ("inputs", lambda: [drift_steps.look_at_inputs(window, champion)]),
        "range": ("ranges", lambda: [drift_steps.look_at_ranges(window, champion, stale)]),
        "fidelity": ("fidelity", lambda: drift_steps.look_at_fidelity(window, champion)),
        "control": ("full precision", lambda: [drift_steps.look_at_control(window, champion)]),
    }
    for index, detector in enumerate(detectors_after(weights)):
        subject, look = looks[detector]
        progress.step(f"looking at {subject} of {window.rows} requests", 0.2 + 0.15 * index)
        with progress.details():
            results += look()
    return drift_steps.decide_window(window, champion, results, past)


def _decide_by_weights(
    thin: ThinWindow,
    sample: SampleRef,
    champion: ReleaseRef,
    weights: DetectorResult,
    past: Sequence[PastDecision],
) -> Decision:
    """Decide on the weights alone: a digest needs no traffic, and nothing else is judged."""
    decision = drift_steps.decide_window(sample, champion, [weights], past)
    of = f"the window up to {sample.end}" if sample.start else "the calibration pool"
    reason = (
        f"{thin.told}: the weights alone decided, "
        f"and {sample.rows} requests of {of} stand in for it."
    )
    return replace(decision, reasons=(*decision.reasons, reason[0].upper() + reason[1:]))


def _act(window: SampleRef, source: str, decision: Decision, first: bool) -> RunOutcome:
    """Do what the decision says.

    A run that finds the window decided does not ask again; an unfinished re-quantization it does
    take up.
    """
    model, why = window.model, decision.reasons[0]
    if wants_retraining(decision):
        promotion_steps.request_retraining(model, window, source, decision, acting())
    if recalibrates(decision) and (first or not history.acted_on(model, window.digest, source)):
        return call(requantize, model, reason=why, window=window.key, action=decision.action)
    if not first:
        return _decided_before(model, decision)
    if wants_retraining(decision):
        return RunOutcome(model, Status.RETRAINING_REQUESTED, why)
    ends = {Action.KEEP: Status.KEPT, Action.HOLD: Status.HELD}
    return RunOutcome(model, ends.get(decision.action, Status.INCONCLUSIVE), why)


def _decided_before(model: str, decision: Decision) -> RunOutcome:
    return RunOutcome(
        model, Status.ALREADY_DONE, f"this window was decided before: {decision.action}"
    )


def _leave_artifacts(model: str, decision: Decision, report: str) -> None:
    rows = [
        {
            "detector": result.detector,
            "health": result.health.value,
            "subject": finding.subject,
            "text": finding.text,
        }
        for result in decision.results
        for finding in result.findings
    ]
    leave_table(f"detectors-{model}", rows, "; ".join(decision.reasons))
    leave_link(f"drift-{model}", f"{settings().store_address}/{report}", "drift report")
