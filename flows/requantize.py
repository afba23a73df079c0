"""Re-quantization: calibration set, observers, recipe, Q/DQ graph, engines, golden gates, release, promotion."""

import time
from collections.abc import Sequence

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.measures import write_measures
from flows.outcomes import Outcome, Rung, Status
from flows.progress import Progress
from infra.settings import settings
from tasks.models.catalog import open_model
from tasks.promotion import steps as promotion
from tasks.quantization import steps as quantization
from tasks.quantization.ladder import climb
from tasks.quantization.recipes import Recipe, find_recipe
from tasks.records import Action, CandidateRef, EngineRef, GateReport, ReleaseRef, SampleRef, Verdict
from tasks.sampling import steps as sampling
from tasks.validation import steps as validation
from tasks.validation.report import to_markdown

COSTS = frozenset({"latency-ratio", "size-ratio", "peak-memory-ratio"})


@flow(name="requantize", flow_run_name="requantize-{model}", validate_parameters=True)
def requantize(
    model: str,
    recipe: str | None = None,
    reason: str = "asked for by hand",
    require_approval: bool = False,
    window: str | None = None,
    action: Action = Action.RECALIBRATE,
    actor: str | None = None,
) -> Outcome:
    """Build, judge and promote a candidate for the traffic at hand.

    Args:
        model: Name of a registered model, such as minilm.
        recipe: One recipe to build; empty climbs the ladder until a candidate passes.
        reason: Why, in one sentence; written to the ledger.
        require_approval: Let a passing candidate wait for a person.
        window: Key of a stored traffic sample; empty samples the current window.
        action: Why it runs: recalibrate, or fallback for safety.
        actor: Who asked; empty is the user of the process.
    """
    actor = actor or settings().actor
    if recipe is not None:
        find_recipe(recipe)  # a misspelt one is refused before anything is written
    progress = Progress(f"re-quantize {model}")
    sample = sampling.load_sample(model, window) if window else sampling.sample_window(model)
    if sample is None:
        text = f"{model}: too few requests in the newest window to calibrate on; import more"
        return _ended(progress, Outcome(model, Status.INCONCLUSIVE, text))
    run = str(flow_run.id or "unnamed")
    if not promotion.claim(model, sample.digest, run, actor, reason):
        text = f"{model}: another run already acts on this window"
        return _ended(progress, Outcome(model, Status.ALREADY_DONE, text))
    try:
        outcome = _build(model, sample, recipe, reason, require_approval, action, actor, progress)
    except BaseException as exc:
        promotion.finish(model, sample.digest, run, actor, f"failed: {exc}", failed=True)
        raise
    promotion.finish(model, sample.digest, run, actor, f"{outcome.status}: {outcome.reason}")
    return _ended(progress, outcome)


def _ended(progress: Progress, outcome: Outcome) -> Outcome:
    progress.step(outcome.reason, 1.0)
    return outcome


def _build(
    model: str,
    sample: SampleRef,
    recipe: str | None,
    reason: str,
    require_approval: bool,
    action: Action,
    actor: str,
    progress: Progress,
) -> Outcome:
    started = time.perf_counter()
    registered = open_model(model)
    champion = promotion.read_champion(model)
    progress.step("composing the calibration set", 0.05)
    calibration = sampling.compose_calibration_set(model, sample)
    progress.step(f"observing {calibration.rows} requests at {len(registered.sites)} sites", 0.1)
    observation = quantization.observe(calibration)
    ladder = climb(
        recipe=recipe,
        has_quantized_champion=quantization.is_quantized(champion),
        action=action,
        sites=len(registered.sites),
    )
    rungs: list[Rung] = []
    for index, rung in enumerate(ladder):
        progress.step(f"rung {rung.name}: {rung.summary}", 0.2 + 0.6 * index / len(ladder))
        candidate = quantization.write_graph(calibration, observation, rung.name, champion)
        engines, reports = _judge(candidate, registered.spec.targets, sample.groups)
        rungs.append(_rung(rung, reports))
        if _passes(reports) or not _quality_failed(reports):
            break  # more precision mends quality, never cost
    write_measures(model, reports=reports, flow="requantize", seconds=time.perf_counter() - started)
    progress.step("releasing the candidate", 0.9)
    release = promotion.release_candidate(candidate, engines, reports, f"{rung.name} on {sample.digest[:8]}")
    _leave_artifact(model, rungs, release)
    outcome = _conclude(model, release, rungs, champion, reason, require_approval, actor)
    write_measures(model)
    return outcome


def _judge(
    candidate: CandidateRef, targets: Sequence[str], served: Sequence[str]
) -> tuple[list[EngineRef], list[GateReport]]:
    """Executable targets first: an engine for a device elsewhere is built only for a graph that passed here."""
    engines: list[EngineRef] = []
    reports: list[GateReport] = []
    for target in sorted(targets, key=lambda name: name != "onnxruntime-cpu"):
        if any(report.verdict in (Verdict.FAILED, Verdict.ERROR) for report in reports):
            break
        engines.append(quantization.build_engine(candidate, target))
        reports.append(validation.judge(candidate, engines[-1], served))
    return engines, reports


def _passes(reports: Sequence[GateReport]) -> bool:
    """At least one target was executed and passed, and none said no; a target without its device is inconclusive."""
    verdicts = {report.verdict for report in reports}
    unknown = any(report.verdict is Verdict.INCONCLUSIVE and _executed(report) for report in reports)
    return Verdict.PASSED in verdicts and not verdicts & {Verdict.FAILED, Verdict.ERROR} and not unknown


def _quality_failed(reports: Sequence[GateReport]) -> bool:
    return any(gate.metric not in COSTS for report in reports if _executed(report) for gate in report.refusals)


def _executed(report: GateReport) -> bool:
    return all(gate.metric != "execution" for gate in report.gates)


def _rung(recipe: Recipe, reports: list[GateReport]) -> Rung:
    refusals = [gate.reason for report in reports for gate in report.refusals if gate.metric != "execution"]
    return Rung(recipe.name, tuple(reports), refusals[0] if refusals else "every gate passed")


def _conclude(
    model: str,
    release: ReleaseRef,
    rungs: list[Rung],
    champion: ReleaseRef | None,
    reason: str,
    require_approval: bool,
    actor: str,
) -> Outcome:
    last, base = rungs[-1], champion.version if champion else None
    where = {"model": model, "version": release.version, "release": release.digest, "rungs": tuple(rungs)}
    if not _passes(last.reports):
        gates = [gate.reason for report in last.reports for gate in report.refusals]
        text = f"{last.recipe} was refused: {last.reason}"
        promotion.record_refusal(release, actor, text, gates)
        return Outcome(status=Status.REFUSED, reason=text, **where)  # type: ignore[arg-type]  # keys are fields
    if require_approval or open_model(model).spec.approval == "manual":
        promotion.request_approval(release, base, actor, reason)
        text = f"version {release.version} ({last.recipe}) passed and waits for approval"
        return Outcome(status=Status.AWAITING_APPROVAL, reason=text, **where)  # type: ignore[arg-type]
    promotion.promote(release, base, actor, reason)
    text = f"version {release.version} ({last.recipe}) is champion"
    return Outcome(status=Status.PROMOTED, reason=text, **where)  # type: ignore[arg-type]


def _leave_artifact(model: str, rungs: Sequence[Rung], release: ReleaseRef) -> None:
    lines = [f"# {model}, version {release.version}", "", "| rung | verdict | why |", "|---|---|---|"]
    for rung in rungs:
        verdicts = ", ".join(f"{report.target}: {report.verdict}" for report in rung.reports)
        lines.append(f"| {rung.recipe} | {verdicts} | {rung.reason} |")
    tables = "\n".join(to_markdown(report) for report in rungs[-1].reports)
    create_markdown_artifact(key=f"gates-{model}", markdown="\n".join([*lines, "", tables]))
