"""What an order would do before it is given: recipes, gates that bind, costs of earlier runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from flows.queries.console import overview
from flows.queries.console.ledgers import ledgers
from flows.queries.console.over_time import golden_reports
from infra.canonical import Json
from infra.errors import BadInput, NotFound, RequantError
from infra.settings import settings
from tasks.promotion import ledger
from tasks.promotion.decisions import was_thin
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.quantization.recipe.catalog import RECIPES, find_recipe
from tasks.quantization.recipe.ladder import DeployedGraph, climb, climb_checkpoint
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.targets import why_not
from tasks.records import Action
from tasks.specs.form import ByForm
from tasks.specs.registration import current_spec
from tasks.specs.spec import ModelSpec

RUNS = 10
"""Earlier runs whose duration is looked at."""
WINDOWS = 20
"""Stored windows that an order may name, the newest."""
REIGNS = 20
"""Earlier champions of one page: each one's manifest and signature are checked for it."""
SITES = 8
"""Taken for the number of sites where no bundle tells it."""


@dataclass(frozen=True, slots=True)
class RecipeChoice:
    """One recipe, and whether the model's targets can express it."""

    name: str
    summary: str
    obstacle: str | None  # the rule of a target that it breaks


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """A window of traffic whose sample is stored."""

    key: str
    end: str
    rows: int | None
    action: str


@dataclass(frozen=True, slots=True)
class BindingGate:
    """A gate that was binding when the newest release was judged."""

    target: str
    metric: str
    group: str
    direction: str
    budget: float
    verdict: str  # then


@dataclass(frozen=True, slots=True)
class Plan:
    """What a re-quantization would do."""

    model: str
    choices: tuple[RecipeChoice, ...]
    windows: tuple[StoredWindow, ...]  # newest first
    window: str  # what would be sampled, in words
    tries: tuple[RecipeChoice, ...]  # in order
    gates: tuple[BindingGate, ...]
    gates_of: str | None  # the version whose judgement shows which gates bind
    seconds: tuple[float, ...]  # of earlier re-quantizations, from intent to end, newest first
    median_s: float | None
    ends: tuple[str, ...]  # how these ended
    then: str  # what becomes of a candidate that passes


@dataclass(frozen=True, slots=True)
class RollbackTarget:
    """An earlier champion."""

    version: str
    release: str | None
    reigned: str  # when its reign began, ISO 8601
    precision: overview.Precision | None
    signed_by: str | None  # the key whose signature over its manifest was checked now
    problem: str | None  # why it cannot come back
    chosen: bool


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """What a rollback would change."""

    model: str
    serving: overview.Reign | None
    precision: overview.Precision | None
    targets: tuple[
        RollbackTarget, ...
    ]  # of one page, newest reign first; the chosen one among them
    page: int
    pages: int
    changes: tuple[tuple[str, str, str], ...]  # what, now, then
    voids: tuple[str, ...]  # versions whose approval would no longer be waited for


def plan(model: str, recipe: str = "", window: str = "", *, require_approval: bool = False) -> Plan:
    """Return what an order would do; raise `NotFound` and `BadInput`.

    Args:
        model: A registered model.
        recipe: One recipe; empty climbs the ladder.
        window: Key of a stored window; empty samples the newest traffic.
        require_approval: Whether a passing candidate waits for a person.
    """
    spec, entries = current_spec(model), ledgers.entries(model)
    windows = _windows(entries)
    if window and window not in {item.key for item in windows}:
        raise BadInput(f"{window} is no stored window of {model}: choose one of the list")
    choices = [_choice(name, spec.targets) for name in RECIPES]
    wanted = find_recipe(recipe).name if recipe else None
    by_name = {choice.name: choice for choice in choices}
    gates_of, gates = _binding(model, entries)
    runs = _durations(entries)
    approval = require_approval or spec.approval != "auto"
    return Plan(
        model,
        tuple(choices),
        tuple(windows),
        _window_words(windows, window),
        (by_name[wanted],) if wanted else _tries(spec, entries, by_name),
        gates,
        gates_of,
        tuple(seconds for seconds, _ in runs),
        median(seconds for seconds, _ in runs) if runs else None,
        tuple(end for _, end in runs),
        _ending(spec.approval) if approval else "becomes champion at once",
    )


def _ending(policy: str) -> str:
    others = ", somebody else's than who asks" if policy == "four-eyes" else ""
    return f"waits for a person's approval{others}"


def rollback_plan(model: str, to: str = "", page: int = 1) -> RollbackPlan:
    """Return a page of earlier champions, and what bringing one back changes; raise `NotFound`."""
    current_spec(model)
    entries = ledger.as_registered(ledgers.entries(model))
    serving = ledger.champion(entries)
    reigns = _earlier(entries)
    if to and to not in reigns:
        raise NotFound(f"version {to} of {model} was not champion before: choose one of the list")
    default = ledger.previous(entries)
    chosen = to or (default.version if default and default.version in reigns else "") or ""
    pages = max(1, -(-len(reigns) // REIGNS))
    page = min(page, pages)
    shown = list(reigns)[(page - 1) * REIGNS : page * REIGNS]
    if chosen and chosen not in shown:
        shown = [chosen, *shown]
    targets = tuple(_target(model, reigns[name], name == chosen) for name in shown)
    now = overview.glance_of(entries).champion
    target = next((item for item in targets if item.chosen), None)
    precision = overview.precision(model, now)
    pending = ledger.pending_approvals(entries)
    return RollbackPlan(
        model,
        now,
        precision,
        targets,
        page,
        pages,
        _changes(serving, precision, target) if target else (),
        tuple(str(entry.version) for entry in pending),
    )


def _choice(name: str, targets: Sequence[str]) -> RecipeChoice:
    recipe = RECIPES[name]
    obstacles = (why_not(recipe, target) for target in targets)
    return RecipeChoice(name, recipe.summary, next(filter(None, obstacles), None))


def _windows(entries: Sequence[LedgerEntry]) -> list[StoredWindow]:
    windows: dict[str, StoredWindow] = {}
    for entry in reversed(entries):
        key = entry.details.get("sample")
        if entry.kind is not EntryKind.DECIDED or not isinstance(key, str) or was_thin(entry):
            continue
        rows = entry.details.get("rows")
        windows.setdefault(
            key,
            StoredWindow(
                key,
                str(entry.details.get("end") or ""),
                rows if isinstance(rows, int) else None,
                str(entry.details.get("action", "")),
            ),
        )
        if len(windows) == WINDOWS:
            break
    return list(windows.values())


def _window_words(windows: Sequence[StoredWindow], window: str) -> str:
    chosen = next((item for item in windows if item.key == window), None)
    if chosen is None:
        return "the newest traffic, sampled when the run begins"
    rows = f", {chosen.rows} requests" if chosen.rows is not None else ""
    moment = datetime.fromisoformat(chosen.end).astimezone(UTC) if chosen.end else None
    end = f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "an unknown time"
    return f"the stored window until {end}{rows}"


def _tries(
    spec: ModelSpec, entries: Sequence[LedgerEntry], choices: Mapping[str, RecipeChoice]
) -> tuple[RecipeChoice, ...]:
    """Return the ladder's order, as far as the champion's bundle tells it."""
    reign = ledger.champion(entries)
    facts: Mapping[str, Json] = {}
    if reign is not None and reign.release is not None:
        try:
            facts = settings().release(spec.name, reign.release).facts
        except RequantError:
            facts = {}
    return tuple(
        choices.get(recipe.name, RecipeChoice(recipe.name, recipe.summary, None))
        for recipe in _LADDERS.of(spec.form)(spec, facts)
    )


def _ladder_of_graph(spec: ModelSpec, facts: Mapping[str, Json]) -> Sequence[Recipe]:
    sites = facts.get("sensitivity")
    return climb(
        recipe=None,
        deployed=_deployed(facts),
        multiplies_rows=True,
        action=Action.RECALIBRATE,
        sites=len(sites) if isinstance(sites, list | tuple) and sites else SITES,
        targets=spec.targets,
        search="first",
        ask=why_not,
    )


def _ladder_of_checkpoint(_: ModelSpec, facts: Mapping[str, Json]) -> Sequence[Recipe]:
    made_by = facts.get("recipe")
    name = made_by.get("name") if isinstance(made_by, Mapping) else None
    return climb_checkpoint(
        recipe=None,
        made_by=str(name) if name in RECIPES else None,
        action=Action.RECALIBRATE,
    )


_LADDERS = ByForm(graph=_ladder_of_graph, checkpoint=_ladder_of_checkpoint)


def _deployed(facts: Mapping[str, Json]) -> DeployedGraph | None:
    """Return what a bundle says of the champion's graph; None where nothing is quantized."""
    recipe = facts.get("recipe")
    if not isinstance(recipe, Mapping) or not recipe.get("quantized"):
        return None
    name = facts.get("graph_recipe")
    return DeployedGraph(
        smoothed=recipe.get("smoothing") not in (None, "none"),
        recipe=None if name is None else str(name),
        whole=not facts.get("kept_high"),
    )


def _binding(
    model: str, entries: Sequence[LedgerEntry]
) -> tuple[str | None, tuple[BindingGate, ...]]:
    """Return the gates that bound the newest judged release that can still be read."""
    for entry in reversed(entries):
        if entry.release is None or entry.version is None:
            continue
        try:
            reports = golden_reports(settings().store().url, model, entry.release)
        except (RequantError, ValueError, KeyError):
            continue
        gates = tuple(
            BindingGate(
                report.target,
                gate.metric,
                gate.group,
                gate.direction,
                gate.budget,
                gate.verdict.value,
            )
            for report in reports
            for gate in report.gates
            if gate.binding and not gate.reported
        )
        return entry.version, gates
    return None, ()


def _durations(entries: Sequence[LedgerEntry]) -> list[tuple[float, str]]:
    """Return how long earlier re-quantizations took in seconds, and how they ended."""
    began = {
        entry.details.get("run"): entry.time
        for entry in entries
        if entry.kind is EntryKind.INTENDED
    }
    ended = [
        ((entry.time - began[entry.details.get("run")]).total_seconds(), entry.reason)
        for entry in reversed(entries)
        if entry.kind is EntryKind.FINISHED
        and entry.details.get("run") in began
        and not entry.details.get("failed")
    ]
    return ended[:RUNS]


def _earlier(entries: Sequence[LedgerEntry]) -> dict[str, LedgerEntry]:
    """Return version -> the newest reign, of versions that do not reign now, newest first."""
    serving = ledger.champion(entries)
    reigns: dict[str, LedgerEntry] = {}
    for entry in reversed(entries):
        reigned = entry.kind in (EntryKind.PROMOTED, EntryKind.ROLLED_BACK)
        if reigned and entry.version and serving and entry.version != serving.version:
            reigns.setdefault(entry.version, entry)
    return reigns


def _target(model: str, entry: LedgerEntry, chosen: bool) -> RollbackTarget:
    precision, signed_by, problem = None, None, None
    try:
        if entry.release is None:
            raise NotFound("its entry names no release")
        release = settings().release(model, entry.release)
        precision, signed_by = overview.precision_of(release.facts), release.signed_by
    except RequantError as error:
        problem = str(error)
    return RollbackTarget(
        str(entry.version),
        entry.release,
        entry.time.isoformat(),
        precision,
        signed_by,
        problem,
        chosen,
    )


def _changes(
    serving: LedgerEntry | None, now: overview.Precision | None, target: RollbackTarget
) -> tuple[tuple[str, str, str], ...]:
    then = target.precision
    return (
        ("version", str(serving.version) if serving else "none", target.version),
        ("served digest", str(serving.release) if serving else "none", str(target.release)),
        ("recipe", now.recipe if now else "unknown", then.recipe if then else "unknown"),
        ("runs as", now.words if now else "unknown", then.words if then else "unknown"),
    )
