"""The ladder at work: build and judge one candidate after the other, and say which to promote."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from flows.orchestration.progress import Progress
from flows.outcomes import JudgedCandidate
from infra.cluster import InProcess, open_mapper
from infra.errors import BadInput, Refused
from infra.settings import NONE
from tasks.models.catalog import RegisteredModel, open_model, where_spread
from tasks.quantization import steps as quantization_steps
from tasks.quantization.forms import DERIVATIONS
from tasks.quantization.measuring import loss_left
from tasks.quantization.recipe.ladder import (
    Search,
    is_hopeless,
    may_cost_less,
)
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.report.pareto import CandidateFigures, Limits, cheapest
from tasks.records import (
    OF_GENERATION,
    CandidateRef,
    EngineRef,
    GateReport,
    ReleaseRef,
    SampleRef,
    Verdict,
)
from tasks.specs.spec import ModelSpec
from tasks.validation import steps as validation_steps
from tasks.validation.report import to_metrics
from tasks.validation.shards import ANYWHERE

REFUSED = frozenset({Verdict.FAILED, Verdict.ERROR, Verdict.SUSPICIOUS})
COSTS = frozenset(
    f"{of}{kind}-ratio" for of in ("", "fp16-") for kind in ("latency", "size", "peak-memory")
) | frozenset(OF_GENERATION)


@dataclass(frozen=True, slots=True)
class Climbed:
    """One candidate that was built and judged."""

    recipe: Recipe
    candidate: CandidateRef
    engines: tuple[EngineRef, ...]
    reports: tuple[GateReport, ...]

    @property
    def refused(self) -> frozenset[str]:
        """Metrics whose gates refused it where it was executed."""
        executed = (report for report in self.reports if _executed(report))
        return frozenset(gate.metric for report in executed for gate in report.refusals)

    @property
    def shown(self) -> JudgedCandidate:
        """As an outcome shows it."""
        refusals = [
            gate.reason
            for report in self.reports
            for gate in report.refusals
            if gate.metric != "execution"
        ]
        return JudgedCandidate(
            self.recipe.name,
            self.reports,
            refusals[0] if refusals else "every gate passed",
            self.candidate.diagnostics,
        )


@dataclass(frozen=True, slots=True)
class ClimbInputs:
    """What every candidate starts from."""

    calibration: SampleRef
    observation: str
    champion: ReleaseRef | None
    served: tuple[str, ...]  # groups of the traffic
    allow_scale_change: bool = False


def within_size(
    model: RegisteredModel, ladder: Sequence[Recipe]
) -> tuple[Sequence[Recipe], str | None]:
    """Leave out what no engine can keep `budgets.size_ratio` with, by its weights alone.

    Returns:
        What is left of a ladder; and where no quantized recipe is, a sentence that says so.
    """
    budget = model.spec.budgets.size_ratio
    ratio = DERIVATIONS.of(model.form).least_size_ratio
    least = {item.name: ratio(model, item) for item in ladder if item.quantized}
    left = [item for item in ladder if least.get(item.name, 0.0) <= budget]
    if not least or any(item.quantized for item in left):
        return left, None
    name = min(least, key=lambda item: least[item])
    return left, (
        f"no candidate could be promoted: {name}, the smallest of those to try, takes at least "
        f"{least[name]:.3g} of full precision's bytes for its weights alone, and "
        f"budgets.size_ratio is {budget:g}: raise it, then run `requant model add` again"
    )


def climb_ladder(
    material: ClimbInputs,
    ladder: Sequence[Recipe],
    targets: Sequence[str],
    search: Search,
    progress: Progress,
) -> list[Climbed]:
    """Return every candidate up to the first that passes, or all of them.

    Behind a candidate that was good enough and too dear, a first search tries what may cost less,
    and nothing else.
    """
    climbed: list[Climbed] = []
    dear: list[Climbed] = []
    if search == "full":
        build_ahead(material, ladder, targets, progress)
    for index, recipe in enumerate(ladder):
        fraction = 0.2 + 0.6 * index / len(ladder)
        if not all(may_cost_less(recipe, before.recipe, before.refused) for before in dear):
            continue
        losses = _losses(material, recipe, progress, fraction, thorough=search == "full")
        if search == "first" and climbed and losses and _is_hopeless(climbed[-1], recipe, losses):
            progress.step(
                f"passing {recipe.name} by: its predicted loss is over the budget", fraction
            )
            continue
        progress.step(f"trying {recipe.name}: {recipe.summary}", fraction)
        with progress.details():
            climbed.append(_measured(material, recipe, targets, losses, thorough=search == "full"))
        if search == "first" and (passes(climbed[-1].reports) or not climbed[-1].refused):
            break  # also where no target could be executed: another candidate could not either
        if search == "first" and climbed[-1].refused <= COSTS:
            dear.append(climbed[-1])
    return climbed


def build_ahead(
    material: ClimbInputs, ladder: Sequence[Recipe], targets: Sequence[str], progress: Progress
) -> None:
    """Make graphs and engines of all candidates on the cluster, where one is set.

    The climb finds them made, and judges one after the other: golden cases spread by themselves,
    and nothing runs beside a timing.
    """
    with open_mapper(
        where_spread(material.calibration.model) or NONE, pieces=len(ladder)
    ) as mapper:
        if isinstance(mapper, InProcess):
            return
        losses = {
            recipe.name: _losses(material, recipe, progress, 0.2, thorough=True)
            for recipe in ladder
        }
        progress.step(f"building {len(ladder)} candidates on the cluster", 0.2)
        works = [
            CandidateWork(material, recipe.name, losses[recipe.name], tuple(targets))
            for recipe in ladder
        ]
        for _ in mapper.map(build_candidate, works):
            pass


@dataclass(frozen=True, slots=True)
class CandidateWork:
    """One candidate of a ladder, by names and digests."""

    material: ClimbInputs
    recipe: str
    losses: str | None  # key
    targets: tuple[str, ...]


def build_candidate(work: CandidateWork) -> None:
    """Store graph and engines where the climb looks for them.

    It runs on a worker, outside Prefect's engine.
    """
    candidate = _written(quantization_steps.write_graph.fn, work.material, work.recipe, work.losses)
    for target in work.targets:
        if target in ANYWHERE:
            with suppress(BadInput, Refused):  # the climb builds it again, and reports why not
                quantization_steps.build_engine.fn(candidate, target)


def _written(
    write: Callable[..., CandidateRef], material: ClimbInputs, recipe: str, losses: str | None
) -> CandidateRef:
    return write(
        material.calibration,
        material.observation,
        recipe,
        material.champion,
        losses,
        material.allow_scale_change,
    )


def chosen(climbed: Sequence[Climbed], figures: Sequence[CandidateFigures], search: Search) -> int:
    """Return which candidate to release.

    Of a first search the last; of a full one the cheapest that passed, else the last.
    """
    best = cheapest(figures) if search == "full" else None
    return len(climbed) - 1 if best is None else best


def figures(climbed: Climbed, spec: ModelSpec) -> CandidateFigures:
    """Return what is logged and plotted of a candidate.

    Its loss is the spec's first quality metric over all cases.
    """
    rule = spec.budgets.quality[0]
    value = _estimate(climbed.reports, rule.metric)
    loss = None if value is None else value if rule.at_least is None else 1 - value
    metrics = {
        name: number for report in climbed.reports for name, number in to_metrics(report).items()
    }
    size, latency, memory = (
        _estimate(climbed.reports, f"{kind}-ratio") for kind in ("size", "latency", "peak-memory")
    )
    return CandidateFigures(
        climbed.recipe.name,
        passes(climbed.reports),
        False,
        climbed.shown.reason,
        loss,
        size,
        latency,
        memory,
        metrics,
    )


def limits(spec: ModelSpec) -> Limits:
    """Return what the spec allows, on the same axes."""
    rule, budgets = spec.budgets.quality[0], spec.budgets
    if rule.at_least is not None:
        return Limits(
            f"1 - {rule.metric}", 1 - rule.at_least, budgets.size_ratio, budgets.latency_ratio
        )
    return Limits(rule.metric, rule.at_most or 0.0, budgets.size_ratio, budgets.latency_ratio)


def passes(reports: Sequence[GateReport]) -> bool:
    """Return whether at least one target was executed and passed, and none said no.

    A target without its device is inconclusive.
    """
    verdicts = {report.verdict for report in reports}
    unknown = any(
        report.verdict is Verdict.INCONCLUSIVE and _executed(report) for report in reports
    )
    return Verdict.PASSED in verdicts and not verdicts & REFUSED and not unknown


def _losses(
    material: ClimbInputs, recipe: Recipe, progress: Progress, fraction: float, *, thorough: bool
) -> str | None:
    """Measure how sensitive the sites are, where the recipe chooses among them."""
    form = open_model(material.calibration.model).form
    if not DERIVATIONS.of(form).ranks_sites(recipe):
        return None
    progress.step("measuring the sites' sensitivity", fraction)
    return quantization_steps.measure_sensitivity(
        material.calibration,
        material.observation,
        recipe.name,
        thorough,
        material.champion if recipe.drifting_sites else None,
    )


def _is_hopeless(before: Climbed, recipe: Recipe, losses: str) -> bool:
    """Return whether the candidate before lost too much for this milder form of it to pass."""
    if _family(recipe) != _family(before.recipe):
        return False
    model = before.candidate.model
    now, then = (loss_left(model, losses, name) for name in (recipe.name, before.recipe.name))
    refusals = [gate for report in before.reports if _executed(report) for gate in report.refusals]
    return is_hopeless(refusals, now / then if then else 1.0)


def _family(recipe: Recipe) -> Recipe:
    return replace(recipe, name="", summary="", high_precision=None)


def _measured(
    material: ClimbInputs,
    recipe: Recipe,
    targets: Sequence[str],
    losses: str | None,
    *,
    thorough: bool,
) -> Climbed:
    """Build and judge one candidate."""
    candidate = _written(quantization_steps.write_graph, material, recipe.name, losses)
    engines: list[EngineRef] = []
    reports: list[GateReport] = []
    # Executable targets first: an engine for a device elsewhere is built only for a graph that
    # passed here.
    for target in sorted(targets, key=lambda name: name != "onnxruntime-cpu"):
        if any(report.verdict in REFUSED for report in reports):
            break
        try:
            engines.append(quantization_steps.build_engine(candidate, target))
        except (BadInput, Refused) as exc:  # this graph on this target: another may be built
            reports.append(validation_steps.report_unbuilt(candidate, target, str(exc)))
            continue
        reports.append(validation_steps.judge(candidate, engines[-1], material.served, thorough))
    return Climbed(recipe, candidate, tuple(engines), tuple(reports))


def _executed(report: GateReport) -> bool:
    return all(gate.metric != "execution" for gate in report.gates)


def _estimate(reports: Sequence[GateReport], metric: str) -> float | None:
    return next(_estimates(reports, metric), None)


def _estimates(reports: Sequence[GateReport], metric: str) -> Iterator[float]:
    """Yield the metric's estimates, over all cases first, then by group."""
    gates = [
        gate
        for report in reports
        for gate in report.gates
        if gate.metric == metric and gate.estimate
    ]
    for gate in sorted(gates, key=lambda gate: gate.group != "all"):
        if gate.estimate is not None:
            yield gate.estimate.value
