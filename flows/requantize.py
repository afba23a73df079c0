"""Re-quantization: calibration set, observers, recipe, graph, engines, gates, promotion."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from prefect.exceptions import TerminationSignal

from flows.climbing import (
    Climbed,
    ClimbInputs,
    chosen,
    climb_ladder,
    figures,
    limits,
    passes,
    within_size,
)
from flows.measures import write_measures
from flows.orchestration.identity import acting
from flows.orchestration.orchestrated import leave_markdown, orchestrated, run_id
from flows.orchestration.progress import Progress
from flows.outcomes import JudgedCandidate, RunOutcome, Status
from infra.access.roles import Role
from infra.processes.interruption import Interrupted, undisturbed
from tasks.models.catalog import open_model
from tasks.profiles import steps as profiles_steps
from tasks.promotion import steps as promotion_steps
from tasks.promotion.release import Judged
from tasks.quantization import steps as quantization_steps
from tasks.quantization.forms import DERIVATIONS
from tasks.quantization.graph.kv_cache import require_cache
from tasks.quantization.pipeline.probe import builder_question
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.ladder import Search
from tasks.quantization.recipe.targets import require_expressible
from tasks.records import Action, ReleaseRef, SampleRef, ThinWindow
from tasks.sampling import steps as sampling_steps
from tasks.validation import steps as validation_steps
from tasks.validation.report import to_markdown


@orchestrated("requantize", "requantize-{model}", role=Role.OPERATOR, yields=True)
def requantize(
    model: str,
    recipe: str | None = None,
    reason: str = "asked for by hand",
    require_approval: bool = False,
    window: str | None = None,
    action: Action = Action.RECALIBRATE,
    search: Literal["first", "full"] = "first",
    allow_scale_change: bool = False,
) -> RunOutcome:
    """Build, judge and promote a candidate for the traffic at hand.

    Args:
        model: Name of a registered model, such as minilm.
        recipe: One recipe to build; empty climbs the ladder until a candidate passes.
        reason: Why, in one sentence; written to the ledger.
        require_approval: Let a passing candidate wait for a person.
        window: Key of a stored traffic sample; empty samples the current window.
        action: Why it runs: recalibrate, or fallback for safety.
        search: Promote the first candidate that passes, or measure all and promote the cheapest.
        allow_scale_change: Let a recalibration change scales by more than the spec's
            calibration.largest_scale_change.
    """
    if recipe is not None:
        # A misspelt one, or one that a target cannot express, is refused before anything is
        # sampled or written.
        chosen_recipe, spec = find_recipe(recipe), open_model(model).spec
        ask = builder_question(open_model(model).sites)
        require_expressible(chosen_recipe, spec.targets, ask)
        require_cache(chosen_recipe, spec.task, spec.budgets)
    progress = Progress(f"re-quantize {model}")
    sample = (
        sampling_steps.load_sample(model, window) if window else sampling_steps.sample_window(model)
    )
    if isinstance(sample, ThinWindow):
        text = f"{model}: {sample.told} or calibrate on it; import more"
        return _ended(progress, RunOutcome(model, Status.INCONCLUSIVE, text))
    run, actor = run_id(), acting()
    if not promotion_steps.claim(model, sample.digest, run, actor, reason):
        text = f"{model}: another run already acts on this window"
        return _ended(progress, RunOutcome(model, Status.ALREADY_DONE, text))
    try:
        outcome = _build(
            model,
            sample,
            recipe,
            reason,
            require_approval,
            action,
            progress,
            search,
            allow_scale_change,
        )
    except BaseException as exc:
        with undisturbed():  # without Prefect, which may be what failed, or be closing too
            promotion_steps.finish.fn(
                model, sample.digest, run, actor, _why_ended(exc, actor), failed=True
            )
        raise
    promotion_steps.finish(model, sample.digest, run, actor, outcome.sentence)
    return _ended(progress, outcome)


def _why_ended(exc: BaseException, actor: str) -> str:
    """Return the reason for the ledger.

    A run that is stopped before it writes an intent leaves none to close, and no entry.
    """
    if isinstance(exc, Interrupted | KeyboardInterrupt | SystemExit | TerminationSignal):
        return f"interrupted by {actor}"
    return f"failed: {exc}"


def _ended(progress: Progress, outcome: RunOutcome) -> RunOutcome:
    progress.step(outcome.reason, 1.0)
    return outcome


def _build(
    model: str,
    sample: SampleRef,
    recipe: str | None,
    reason: str,
    require_approval: bool,
    action: Action,
    progress: Progress,
    search: Search,
    allow_scale_change: bool,
) -> RunOutcome:
    started = time.perf_counter()
    registered = open_model(model)
    champion = promotion_steps.read_champion(model)
    progress.step("asking what can be judged", 0.01)
    examination = validation_steps.examine(sample)
    if examination.obstacles:
        return RunOutcome(
            model,
            Status.INCONCLUSIVE,
            examination.obstacles[0],
            notes=(*examination.obstacles[1:], *examination.notes),
        )
    derivation = DERIVATIONS.of(registered.form)
    ladder = derivation.ladder(registered, champion, recipe, action, search)
    if recipe is None:  # one that a person named is built, and refused by its gates
        ladder, too_large = within_size(registered, ladder)
        if too_large:
            return RunOutcome(model, Status.INCONCLUSIVE, too_large, notes=examination.notes)
    reason = examination.noted(reason)
    progress.step("profiling the window's traffic", 0.02)
    frozen = profiles_steps.freeze_traffic(sample)
    progress.step("composing the calibration set", 0.05)
    with progress.details():
        calibration = sampling_steps.compose_calibration_set(model, sample, champion)
    observing = derivation.observing(registered, calibration.rows)
    if observing:
        progress.step(observing, 0.1)
    observation = quantization_steps.observe(calibration)
    material = ClimbInputs(calibration, observation, champion, sample.groups, allow_scale_change)
    climbed = climb_ladder(material, ladder, registered.spec.targets, search, progress)
    measured = [figures(step, registered.spec) for step in climbed]
    best = chosen(climbed, measured, search)
    measured[best] = replace(measured[best], chosen=measured[best].passed)
    quantization_steps.record_ladder(
        calibration,
        sample.digest,
        [step.candidate for step in climbed],
        measured,
        limits(registered.spec),
        reason,
    )
    candidates, winner = [step.shown for step in climbed], climbed[best]
    write_measures(
        model, reports=winner.reports, flow="requantize", seconds=time.perf_counter() - started
    )
    progress.step("releasing the candidate", 0.9)
    name = f"{winner.recipe.name} on {sample.digest[:8]}"
    judged = Judged(winner.candidate, winner.engines, winner.reports, sample.digest)
    release = promotion_steps.release_candidate(judged, name, frozen)
    _leave_artifact(model, candidates, winner, release)
    outcome = _conclude(model, release, candidates, winner, champion, reason, require_approval)
    write_measures(model)
    return replace(outcome, notes=examination.notes)


def _conclude(
    model: str,
    release: ReleaseRef,
    candidates: list[JudgedCandidate],
    taken: Climbed,
    champion: ReleaseRef | None,
    reason: str,
    require_approval: bool,
) -> RunOutcome:
    last, base, actor = taken.shown, champion.version if champion else None, acting()
    where = {
        "model": model,
        "version": release.version,
        "release": release.digest,
        "candidates": tuple(candidates),
    }
    if not passes(last.reports):
        gates = [gate.reason for report in last.reports for gate in report.refusals]
        text = f"{last.recipe} was refused: {last.reason}"
        promotion_steps.record_refusal(release, actor, text, gates)
        return RunOutcome(status=Status.REFUSED, reason=text, **where)  # type: ignore[arg-type]  # keys are fields
    policy = open_model(model).spec.approval
    if require_approval or policy != "auto":
        promotion_steps.request_approval(release, base, actor, reason, policy)
        text = f"version {release.version} ({last.recipe}) passed and waits for approval"
        return RunOutcome(status=Status.AWAITING_APPROVAL, reason=text, **where)  # type: ignore[arg-type]
    spec = open_model(model).spec
    if champion is not None and spec.serving is not None and spec.serving.delivery is not None:
        promotion_steps.start_delivery(release, base, spec.delivery_shares, actor, reason)
        text = f"version {release.version} ({last.recipe}) passed and is being delivered"
        return RunOutcome(status=Status.DELIVERING, reason=text, **where)  # type: ignore[arg-type]
    promotion_steps.promote(release, base, actor, reason)
    text = f"version {release.version} ({last.recipe}) is champion"
    return RunOutcome(status=Status.PROMOTED, reason=text, **where)  # type: ignore[arg-type]


def _leave_artifact(
    model: str, candidates: Sequence[JudgedCandidate], taken: Climbed, release: ReleaseRef
) -> None:
    lines = [
        f"# {model}, version {release.version}",
        "",
        "| candidate | verdict | why |",
        "|---|---|---|",
    ]
    for candidate in candidates:
        verdicts = ", ".join(f"{report.target}: {report.verdict}" for report in candidate.reports)
        lines.append(f"| {candidate.recipe} | {verdicts} | {candidate.reason} |")
    lines += ["", *(f"- {diagnostic}" for diagnostic in taken.candidate.diagnostics)]
    tables = "\n".join(to_markdown(report) for report in taken.reports)
    leave_markdown(f"gates-{model}", "\n".join([*lines, "", tables]))
