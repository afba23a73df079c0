"""One model over time: detector results, saturation by layer, traffic, cost, and what happened."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from flows.queries.console.ledgers import ledgers
from infra.canonical import Json
from infra.errors import RequantError
from infra.settings import settings
from infra.stores import layout
from tasks.drift.report.keys import FINDINGS
from tasks.promotion.decisions import was_thin
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.records import STORED_DETECTORS, GateReport
from tasks.validation.report import from_json

WINDOWS = 200
"""Decisions that a page shows, the newest."""
FOUND = 40
"""Windows whose findings are read, for the heat map and the groups."""
LAYERS, GROUPS = 30, 12
"""Rows of the heat map, and domains and languages, that are named; the largest ones."""
RELEASES = 30
"""Releases whose costs are shown."""
COSTS = ("latency-ratio", "size-ratio", "peak-memory-ratio")
LAYER = "layer "
_MARKED = {
    EntryKind.PROMOTED: "promotion",
    EntryKind.ROLLED_BACK: "rollback",
    EntryKind.REFUSED: "refusal",
    EntryKind.RETRAINING_REQUESTED: "incident",
    EntryKind.ALIAS_UNDONE: "incident",
    EntryKind.REGISTERED: "incident",
    EntryKind.FELL_BACK: "incident",
}
_JUDGED = frozenset({EntryKind.PROMOTED, EntryKind.REFUSED, EntryKind.APPROVAL_REQUESTED})


@dataclass(frozen=True, slots=True)
class DetectorFigure:
    """What mattered most of one detector in one window."""

    subject: str
    value: float
    limit: float


@dataclass(frozen=True, slots=True)
class DecidedWindow:
    """One decision about one window of traffic."""

    number: int  # of the ledger entry
    time: str  # of the decision, ISO 8601, UTC
    start: str  # of the window, in traffic time; "" where it is not known
    end: str
    window: str  # its digest
    action: str
    reason: str
    rows: int | None  # requests of its sample
    detectors: dict[str, str]  # detector -> fine, degraded, inconclusive
    figures: dict[str, DetectorFigure]
    report: str | None  # address of the detectors' page


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """Something that happened to the model."""

    number: int
    time: str
    kind: str  # promotion, rollback, refusal, incident
    version: str | None
    words: str


@dataclass(frozen=True, slots=True)
class Grid:
    """Figures by name and window: `values[name][window]`, None where there is none."""

    names: tuple[str, ...]
    times: tuple[str, ...]  # of the windows' decisions
    values: tuple[tuple[float | None, ...], ...]
    left_out: int  # names beyond those that are shown


@dataclass(frozen=True, slots=True)
class Cost:
    """One cost of one judged release on one target."""

    number: int
    time: str
    version: str
    target: str
    metric: str  # of COSTS: over full precision's
    value: float
    budget: float
    measured: float | None  # the candidate's own side, in bytes or seconds
    verdict: str


@dataclass(frozen=True, slots=True)
class ModelOverTime:
    """Everything that a model's page draws, oldest first."""

    model: str
    windows: tuple[DecidedWindow, ...]
    marks: tuple[ModelEvent, ...]
    saturation: Grid  # removable error of each layer's scale, over its limit
    groups: Grid  # requests of each domain and language in the window's sample
    costs: tuple[Cost, ...]
    missing: tuple[str, ...]  # what could not be read, a sentence each


def over_time(model: str, windows: int = WINDOWS) -> ModelOverTime:
    """Return the newest windows and what happened since the first of them."""
    entries = ledgers.entries(model)
    decided = [_decided(model, entry) for entry in _newest(entries, {EntryKind.DECIDED}, windows)]
    since = decided[0].time if len(decided) == windows else ""
    marks = [
        ModelEvent(entry.number, time, _MARKED[entry.kind], entry.version, entry.reason)
        for entry in entries
        if entry.kind in _MARKED and (time := entry.time.isoformat()) >= since
    ]
    documents = [(window, _findings(model, window)) for window in decided[-FOUND:]]
    costs, unreadable = _costs(model, _newest(entries, set(_JUDGED), RELEASES))
    return ModelOverTime(
        model,
        tuple(decided),
        tuple(marks),
        _grid([(window.time, _saturation(found)) for window, found in documents], LAYERS),
        _grid([(window.time, _groups(found)) for window, found in documents], GROUPS),
        tuple(costs),
        (*_not_found(documents), *unreadable),
    )


def _newest(entries: Sequence[LedgerEntry], kinds: set[EntryKind], most: int) -> list[LedgerEntry]:
    """Return the newest entries of some kinds, oldest first."""
    of_kinds = (entry for entry in reversed(entries) if entry.kind in kinds)
    return list(islice(of_kinds, most))[::-1]


def _decided(model: str, entry: LedgerEntry) -> DecidedWindow:
    details, thin = entry.details, was_thin(entry)
    window, rows = str(details.get("window", "")), details.get("rows")
    return DecidedWindow(
        entry.number,
        entry.time.isoformat(),
        str(details.get("start") or ""),
        str(details.get("end") or ""),
        window,
        str(details.get("action", "decided")),
        entry.reason,
        rows if isinstance(rows, int) else None,
        {str(name): str(said) for name, said in _mapping(details.get(STORED_DETECTORS)).items()},
        {
            str(name): figure
            for name, row in _mapping(details.get("figures")).items()
            if (figure := _figure(row)) is not None
        },
        f"/{layout.report(model, window, f'{STORED_DETECTORS}.html')}"
        if window and not thin
        else None,
    )


def _figure(row: Json) -> DetectorFigure | None:
    if not isinstance(row, list | tuple) or len(row) != 3:
        return None
    subject, value, limit = row
    if isinstance(value, int | float) and isinstance(limit, int | float):
        return DetectorFigure(str(subject), float(value), float(limit))
    return None


def _findings(model: str, window: DecidedWindow) -> Mapping[str, Json] | None:
    """Return what the detectors found; None where it is not stored, or no longer."""
    if window.report is None:
        return None
    key = layout.report(model, window.window, FINDINGS)
    try:
        return _read(settings().store().url, key)
    except (RequantError, ValueError, KeyError):
        return None


@lru_cache(maxsize=1024)
def _read(address: str, key: str) -> Mapping[str, Json]:
    """Read a document once: nothing writes it anew but a look at the same window."""
    document = json.loads(settings().store().get(key))
    if not isinstance(document, dict) or document["version"] != 1:
        raise ValueError(key)
    return document


def _saturation(document: Mapping[str, Json] | None) -> dict[str, float]:
    """Return layer -> the error that a new scale would remove, over its limit."""
    return {
        str(finding["subject"]).removeprefix(LAYER): float(value) / float(limit)
        for result in _rows(document, "results")
        if result.get("detector") == "range"
        for finding in _rows(result, "findings")
        if str(finding.get("subject", "")).startswith(LAYER)
        and isinstance(value := finding.get("value"), int | float)
        and isinstance(limit := finding.get("limit"), int | float)
        and limit > 0
    }


def _groups(document: Mapping[str, Json] | None) -> dict[str, float]:
    """Return domain or language -> requests of the sample."""
    counts = _mapping((document or {}).get("groups"))
    return {str(name): float(n) for name, n in counts.items() if isinstance(n, int | float)}


def _grid(columns: Sequence[tuple[str, Mapping[str, float]]], most: int) -> Grid:
    """Return the figures of the names with the largest figures."""
    columns = [(time, figures) for time, figures in columns if figures]
    peaks: dict[str, float] = {}
    for _, figures in columns:
        for name, value in figures.items():
            peaks[name] = max(value, peaks.get(name, value))
    names = sorted(sorted(peaks, key=lambda name: (-peaks[name], name))[:most])
    return Grid(
        tuple(names),
        tuple(time for time, _ in columns),
        tuple(tuple(figures.get(name) for _, figures in columns) for name in names),
        len(peaks) - len(names),
    )


def _costs(model: str, judged: Sequence[LedgerEntry]) -> tuple[list[Cost], list[str]]:
    """Return the costs of judged releases, and which bundles could not be read."""
    costs: list[Cost] = []
    unreadable: list[str] = []
    by_release = {entry.release: entry for entry in judged if entry.release}
    for digest, entry in by_release.items():
        try:
            reports = golden_reports(settings().store().url, model, str(digest))
        except (RequantError, ValueError, KeyError) as error:
            unreadable.append(f"The costs of version {entry.version} cannot be read: {error}")
            continue
        costs += [
            Cost(
                entry.number,
                entry.time.isoformat(),
                str(entry.version),
                report.target,
                gate.metric,
                gate.estimate.value,
                gate.budget,
                gate.measured,
                gate.verdict.value,
            )
            for report in reports
            for gate in report.gates
            if gate.metric in COSTS and gate.group == "all" and gate.estimate is not None
        ]
    return costs, unreadable


@lru_cache(maxsize=256)
def golden_reports(address: str, model: str, digest: str) -> tuple[GateReport, ...]:
    """Return a bundle's golden reports, read once: its digest names its content."""
    release = settings().release(model, digest)
    names = sorted(name for name in release.files if name.startswith("golden/"))
    return tuple(from_json(release.file(name)) for name in names)


def _not_found(
    documents: Sequence[tuple[DecidedWindow, Mapping[str, Json] | None]],
) -> list[str]:
    """Say of how many windows the findings are not stored."""
    lost = sum(found is None and window.report is not None for window, found in documents)
    if not lost:
        return []
    return [
        f"What the detectors found by layer and group is not stored of {lost} of the "
        f"{len(documents)} newest windows: older reports have none, and `requant gc` removes some"
    ]


def _rows(value: Mapping[str, Json] | None, name: str) -> list[Mapping[str, Json]]:
    items = (value or {}).get(name)
    if not isinstance(items, list | tuple):
        return []
    return [item for item in items if isinstance(item, Mapping)]


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}
