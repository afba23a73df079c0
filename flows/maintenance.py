"""Scheduled maintenance: sample the window, look through every lens, decide, act when the decision says so."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from prefect import flow
from prefect.artifacts import create_link_artifact, create_table_artifact

from flows.measures import write_measures
from flows.outcomes import Outcome, Status
from flows.progress import Progress
from flows.requantize import requantize
from infra.settings import settings
from tasks.drift import steps as drift
from tasks.drift.decision import recalibrates, wants_retraining
from tasks.promotion import steps as promotion
from tasks.records import Decision, LensReading, ReleaseRef, SampleRef
from tasks.sampling import steps as sampling


@flow(name="maintenance", flow_run_name="maintain-{model}")
def maintenance(
    model: str,
    until: datetime | None = None,
    actor: str = "maintenance",
) -> Outcome:
    """Keep one model right on the newest window; running it again, or twice at once, changes nothing more.

    Args:
        model: Name of a registered model, such as minilm.
        until: End of the traffic window; empty is the newest request.
        actor: Who runs it; the schedule is 'maintenance'.
    """
    started = time.perf_counter()
    progress = Progress(f"maintain {model}")
    champion = promotion.read_champion(model)
    if champion is None:
        return requantize(model, reason="the first champion", actor=actor)
    progress.step("sampling the traffic window", 0.1)
    window = sampling.sample_window(model, until)
    if window is None:
        return Outcome(model, Status.INCONCLUSIVE, f"{model}: too few requests in the window to tell; nothing was done")
    decision = _decide(window, champion, progress)
    first = promotion.record_decision(model, decision, actor)
    progress.step("writing the drift report", 0.8)
    report = drift.write_report(window, champion, decision)
    _leave_artifacts(model, decision, report)
    write_measures(model, readings=decision.readings, flow="maintenance", seconds=time.perf_counter() - started)
    outcome = _act(window, decision, first, actor)
    progress.step(outcome.reason, 1.0)
    return replace(outcome, decision=decision, report=report)


def _decide(window: SampleRef, champion: ReleaseRef, progress: Progress) -> Decision:
    look = promotion.looks_since_promotion(window.model) + 1
    readings: list[LensReading] = []
    lenses: tuple[tuple[str, Callable[[], list[LensReading]]], ...] = (
        ("inputs", lambda: [drift.look_at_inputs(window, champion)]),
        ("ranges", lambda: [drift.look_at_ranges(window, champion)]),
        ("fidelity", lambda: drift.look_at_fidelity(window, champion, look)),
        ("full precision", lambda: [drift.look_at_control(window)]),
    )
    for index, (name, look_through) in enumerate(lenses):
        progress.step(f"looking at {name} of {window.rows} requests", 0.2 + 0.15 * index)
        readings += look_through()
    return drift.decide_window(window, readings)


def _act(window: SampleRef, decision: Decision, first: bool, actor: str) -> Outcome:
    """A run that finds the window decided does not ask again; an unfinished re-quantization it does take up."""
    model, why = window.model, decision.reasons[0]
    if wants_retraining(decision):
        promotion.request_retraining(model, window, decision, actor)
    if recalibrates(decision) and (first or not promotion.acted_on(model, window.digest)):
        return requantize(model, reason=why, window=window.key, action=decision.action, actor=actor)
    if not first:
        return Outcome(model, Status.ALREADY_DONE, f"this window was decided before: {decision.action}")
    if wants_retraining(decision):
        return Outcome(model, Status.RETRAINING_REQUESTED, why)
    kept = decision.action.value == "keep"
    return Outcome(model, Status.KEPT if kept else Status.INCONCLUSIVE, why)


def _leave_artifacts(model: str, decision: Decision, report: str) -> None:
    rows = [
        {"lens": one.lens, "health": one.health.value, "subject": item.subject, "text": item.text}
        for one in decision.readings
        for item in one.findings
    ]
    create_table_artifact(key=f"lenses-{model}", table=rows, description="; ".join(decision.reasons))
    create_link_artifact(key=f"drift-{model}", link=f"{settings().store_address}/{report}", link_text="drift report")
