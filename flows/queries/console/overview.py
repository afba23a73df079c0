"""Every model at a glance: what serves, how it is doing, what waits and what comes next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from flows.queries.console.indexed import PATIENCE_S, Readable, index
from flows.queries.console.ledgers import ledgers
from flows.schedules import Upcoming
from infra.canonical import Json
from infra.errors import RequantError, Unavailable
from infra.settings import settings
from infra.stores.entry_table import LogHead
from tasks.promotion import ledger
from tasks.promotion.decisions import was_thin
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.records import STORED_DETECTORS
from tasks.specs.registration import current_spec, model_names

SPARK = 40
"""Windows of which a sparkline shows the fidelity."""
WORST = ("degraded", "inconclusive", "fine")
"""What detectors say, the worst first."""


@dataclass(frozen=True, slots=True)
class Reign:
    """A release that serves or served."""

    version: str
    release: str | None
    since: str  # ISO 8601, UTC
    how: str  # promoted, rolled-back
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class DecisionGlance:
    """The newest decision about a window."""

    number: int  # of the ledger entry
    time: str  # ISO 8601, UTC
    action: str
    reason: str
    detectors: dict[str, str]  # detector -> fine, degraded, inconclusive


@dataclass(frozen=True, slots=True)
class Waiting:
    """A candidate that waits for a person."""

    number: int
    version: str
    since: str
    actor: str
    reason: str
    four_eyes: bool = False  # whether another than the actor has to approve


@dataclass(frozen=True, slots=True)
class Glance:
    """What a ledger says at a glance."""

    entries: int
    champion: Reign | None = None
    previous: Reign | None = None
    decision: DecisionGlance | None = None
    waiting: tuple[Waiting, ...] = ()
    fidelity: tuple[tuple[str, float, float], ...] = ()  # time, value, limit: oldest first


@dataclass(frozen=True, slots=True)
class Precision:
    """What the champion's bundle says of its making."""

    recipe: str
    words: str  # "INT8 weights and activations"
    fraction: float | None  # of all stored numbers, those in fewer bits
    targets: dict[str, str]  # target -> verdict


@dataclass(frozen=True, slots=True)
class NextRun:
    """The next scheduled run, as Prefect has it."""

    known: bool  # False: Prefect did not answer
    time: str | None = None
    paused: bool = False
    missing: str | None = None  # when a run was due that was never created
    overdue_s: float = 0.0
    late: int = 0
    scheduled: bool = True


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model of the list."""

    name: str
    task: str
    health: str  # fine, degraded, inconclusive, unreadable, "not looked at"
    glance: Glance
    precision: Precision | None
    schedule: str
    next_run: NextRun
    problem: str | None = None  # why something of it cannot be read


def rows(scheduled: Mapping[str, Upcoming] | None) -> list[ModelRow]:
    """Return every registered model, by name; what is bad of one hides no other.

    `scheduled` is what Prefect says; None where it did not answer.
    """
    names = model_names(settings().store())
    known = _brought_up(names, PATIENCE_S)
    return [_row(name, scheduled, known) for name in names]


def row(name: str, scheduled: Mapping[str, Upcoming] | None) -> ModelRow:
    """Return one model, whatever of it can be read."""
    return _row(name, scheduled, _brought_up([name], float("inf")))


def _brought_up(names: Sequence[str], patience_s: float) -> Readable:
    """Return what the index knows of long ledgers: nothing, where it does not answer."""
    try:
        return index.readable(index.long_ones(names), patience_s)
    except Unavailable:  # every ledger is read itself, which takes longer
        return Readable((), {}, {})


def _row(name: str, scheduled: Mapping[str, Upcoming] | None, known: Readable) -> ModelRow:
    bare = ModelRow(name, "unknown", "unreadable", Glance(0), None, "none", NextRun(False))
    if name in known.unreadable:
        return replace(bare, problem=known.unreadable[name])
    try:
        glance = _glance(name, known.heads.get(name))
    except Exception as error:  # whatever it is, the next model is shown
        return replace(bare, problem=str(error) or repr(error))
    bare = replace(bare, glance=glance, next_run=next_run(name, scheduled))
    try:
        spec = current_spec(name)
    except Exception as error:
        return replace(bare, problem=str(error) or repr(error))
    return replace(
        bare,
        task=spec.task.value,
        health=health_of(glance.decision),
        precision=precision(name, glance.champion),
        schedule=str(spec.schedule),
    )


def next_run(name: str, scheduled: Mapping[str, Upcoming] | None) -> NextRun:
    """Return a model's next run."""
    if scheduled is None:
        return NextRun(False)
    runs = scheduled.get(name)
    if runs is None:
        return NextRun(True, scheduled=False)
    return NextRun(True, runs.next_run, runs.paused, runs.missing, runs.overdue_s, runs.late)


def health_of(decision: DecisionGlance | None) -> str:
    """Return the worst of what the detectors said last."""
    if decision is None or not decision.detectors:
        return "not looked at"
    said = set(decision.detectors.values())
    return next((word for word in WORST if word in said), "inconclusive")


def _glance(model: str, head: LogHead | None) -> Glance:
    """Return what a ledger says at a glance: a long one is not read whole for that."""
    if head is None:
        return ledgers.value(model, glance_of)
    return _indexed_glance(settings().store().url, model, head.digest, head.number)


@lru_cache(maxsize=512)
def _indexed_glance(address: str, model: str, newest: str, entries: int) -> Glance:
    acts, decisions = index.acts(model), index.decisions(model, SPARK)
    known = sorted((*acts, *decisions), key=lambda entry: entry.number)
    return replace(glance_of(known), entries=entries)


def glance_of(entries: Sequence[LedgerEntry]) -> Glance:
    """Return what a ledger says at a glance; pure.

    Acts and the newest decisions suffice, but for the number of entries.
    """
    decisions = [entry for entry in entries if entry.kind is EntryKind.DECIDED]
    waiting = (*ledger.pending_approvals(entries), *ledger.cut_off_approvals(entries))
    return Glance(
        entries=len(entries),
        champion=_reign(ledger.champion(entries)),
        previous=_reign(ledger.previous(entries)),
        decision=_decision(decisions[-1]) if decisions else None,
        waiting=tuple(_waiting(entry) for entry in waiting if entry.version),
        fidelity=tuple(filter(None, map(_fidelity, decisions[-SPARK:]))),
    )


def precision(model: str, reign: Reign | None) -> Precision | None:
    """Return what the champion's bundle says; None where there is none, or it cannot be read."""
    if reign is None or reign.release is None:
        return None
    try:
        return _precision(settings().store().url, model, reign.release)
    except RequantError:
        return Precision("unreadable release", "its version's page says why", None, {})


@lru_cache(maxsize=512)
def _precision(address: str, model: str, digest: str) -> Precision:
    """Read a bundle once: its digest names its content."""
    return precision_of(settings().release(model, digest).facts)


def precision_of(facts: Mapping[str, Json]) -> Precision:
    """Return the precision that a bundle's facts tell; pure."""
    recipe, verdicts = _mapping(facts.get("recipe")), _mapping(facts.get("verdicts"))
    fraction = facts.get("quantized_share")
    return Precision(
        str(recipe.get("name", "")),
        _words(recipe),
        float(fraction) if isinstance(fraction, int | float) else None,
        {str(target): str(verdict) for target, verdict in verdicts.items()},
    )


def _words(recipe: Mapping[str, Json]) -> str:
    """Say in which formats a recipe puts weights and activations."""
    if recipe.get("quantized") is False:
        return f"{str(recipe.get('high_precision', 'fp32')).upper()}, nothing quantized"
    weights = _mapping(recipe.get("weights")).get("format")
    activations = _mapping(recipe.get("activations")).get("format")
    if weights is None:
        return ""
    if activations is None:
        return f"{str(weights).upper()} weights"
    if weights == activations:
        return str(weights).upper()
    return f"{str(weights).upper()} weights, {str(activations).upper()} activations"


def _reign(entry: LedgerEntry | None) -> Reign | None:
    if entry is None or entry.version is None:
        return None
    return Reign(
        entry.version,
        entry.release,
        entry.time.isoformat(),
        entry.kind.value,
        entry.actor,
        entry.reason,
    )


def _waiting(entry: LedgerEntry) -> Waiting:
    return Waiting(
        entry.number,
        str(entry.version),
        entry.time.isoformat(),
        entry.actor,
        entry.reason,
        ledger.wants_other_eyes(entry),
    )


def _decision(entry: LedgerEntry) -> DecisionGlance:
    detectors = {} if was_thin(entry) else _mapping(entry.details.get(STORED_DETECTORS))
    return DecisionGlance(
        entry.number,
        entry.time.isoformat(),
        str(entry.details.get("action", "decided")),
        entry.reason,
        {str(name): str(health) for name, health in detectors.items()},
    )


def _fidelity(entry: LedgerEntry) -> tuple[str, float, float] | None:
    figures = _mapping(entry.details.get("figures")).get("fidelity")
    if not isinstance(figures, list | tuple) or len(figures) != 3:
        return None
    _, value, limit = figures
    if isinstance(value, int | float) and isinstance(limit, int | float):
        return entry.time.isoformat(), float(value), float(limit)
    return None


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}
