"""What people look at: models, their histories, a candidate beside the champion. Reads only."""

from dataclasses import dataclass

from infra.canonical import Json
from infra.errors import NotFound
from infra.settings import settings
from tasks.models.catalog import model_names, open_model
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import Entry, Kind
from tasks.quantization.recipes import RECIPES
from tasks.quantization.targets import TARGETS, why_not
from tasks.records import GateReport, GateResult
from tasks.validation.report import from_json


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model at a glance."""

    name: str
    task: str
    champion: Entry | None
    previous: Entry | None
    last_decision: Entry | None
    waiting: tuple[Entry, ...]  # approvals
    schedule: str  # cron, with its time zone


@dataclass(frozen=True, slots=True)
class RecipeView:
    """One recipe, and what keeps each target from expressing it."""

    name: str
    summary: str
    obstacles: dict[str, str | None]  # target -> the rule that it breaks; None where it can be expressed


@dataclass(frozen=True, slots=True)
class GateRow:
    """One gate of a candidate, and what the champion's reached when it was judged."""

    target: str
    candidate: GateResult
    champion: GateResult | None


@dataclass(frozen=True, slots=True)
class VersionView:
    """One registered version with its golden reports."""

    model: str
    version: str
    release: str
    recipe: str
    facts: dict[str, Json]
    reports: tuple[GateReport, ...]
    champion: str | None  # version it is shown beside
    rows: tuple[GateRow, ...]


def recipes() -> list[RecipeView]:
    """Every recipe, cheapest repair first, as `tasks.quantization.targets` has it."""
    return [
        RecipeView(name, recipe.summary, {target: why_not(recipe, target) for target in TARGETS})
        for name, recipe in RECIPES.items()
    ]


def all_models() -> list[ModelView]:
    """Every registered model, by name."""
    return [one_model(name) for name in model_names(settings().store())]


def one_model(name: str) -> ModelView:
    """One model; raises `NotFound`."""
    spec = open_model(name).spec
    entries = journal.read(name)
    decisions = [entry for entry in entries if entry.kind is Kind.DECIDED]
    return ModelView(
        name=name,
        task=spec.task.value,
        champion=ledger.champion(entries),
        previous=ledger.previous(entries),
        last_decision=decisions[-1] if decisions else None,
        waiting=ledger.pending_approvals(entries),
        schedule=str(spec.schedule),
    )


def history(name: str) -> tuple[Entry, ...]:
    """The whole ledger, oldest first; raises `NotFound` and `Tampered`."""
    open_model(name)
    return journal.read(name)


def one_version(model: str, version: str) -> VersionView:
    """A version beside the present champion; raises `NotFound` and `Tampered`."""
    open_model(model)
    digest = settings().registry().version(model, version).release
    if digest is None:
        raise NotFound(f"version {version} of {model} carries no release: it was not made by Requant")
    release = settings().release(model, digest)
    reigning = ledger.champion(journal.read(model))
    reports = _reports(model, digest)
    beside = _reports(model, reigning.release) if reigning and reigning.release else ()
    recipe = release.facts["recipe"]
    return VersionView(
        model=model,
        version=version,
        release=digest,
        recipe=str(recipe["name"]) if isinstance(recipe, dict) else "",
        facts=dict(release.facts),
        reports=reports,
        champion=reigning.version if reigning else None,
        rows=_rows(reports, beside),
    )


def report_page(key: str) -> bytes:
    """A stored drift report; raises `NotFound`."""
    if not key.startswith("reports/"):
        raise NotFound(f"{key} is no report")
    return settings().store().get(key)


def _reports(model: str, digest: str) -> tuple[GateReport, ...]:
    release = settings().release(model, digest)
    names = sorted(name for name in release.files if name.startswith("golden/"))
    return tuple(from_json(release.file(name)) for name in names)


def _rows(reports: tuple[GateReport, ...], beside: tuple[GateReport, ...]) -> tuple[GateRow, ...]:
    known = {(report.target, gate.metric, gate.group): gate for report in beside for gate in report.gates}
    return tuple(
        GateRow(report.target, gate, known.get((report.target, gate.metric, gate.group)))
        for report in reports
        for gate in sorted(report.gates, key=lambda gate: not gate.binding)
    )
