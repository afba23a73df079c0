"""Ledgers as an audit reads them: filtered, a page at a time, at a point in time, exported."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from flows.queries.console.ledgers import ledgers
from infra.errors import BadInput
from infra.settings import settings
from tasks.promotion import ledger
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.specs.registration import current_digest, model_names

PAGE = 50
"""Entries of one page."""
MOST = 1000
"""Entries that a page may have."""
Visible = Callable[[str], bool]
"""Tells whether whoever asks may see a model's ledger."""
COLUMNS = ("model", "number", "time", "kind", "version", "actor", "reason", "release", "digest")
"""Of an exported table."""


@dataclass(frozen=True, slots=True)
class EntryView:
    """One entry of a ledger."""

    model: str
    number: int
    time: str  # ISO 8601, UTC
    kind: str
    version: str | None
    release: str | None
    actor: str
    reason: str
    digest: str  # of the entry
    action: str | None  # of a decision
    run: str | None  # of an intent and its end: the flow run
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries are asked for; empty fields ask for all."""

    model: str = ""
    kind: str = ""
    actor: str = ""
    version: str = ""
    text: str = ""  # part of the reason
    at: str = ""  # nothing after this moment; ISO 8601, in UTC where it names no zone


@dataclass(frozen=True, slots=True)
class EntryPage:
    """One page of entries, newest first, and what stood then."""

    entries: list[EntryView]
    total: int
    page: int
    pages: int
    champions: dict[str, str]  # model -> version that served at the point in time, or now
    unreadable: dict[str, str]  # model -> why its ledger is not among them


def view_of(model: str, entry: LedgerEntry) -> EntryView:
    """Return an entry as pages show it."""
    action, run = entry.details.get("action"), entry.details.get("run")
    return EntryView(
        model,
        entry.number,
        entry.time.isoformat(),
        entry.kind.value,
        entry.version,
        entry.release,
        entry.actor,
        entry.reason,
        entry.digest,
        None if action is None else str(action),
        None if run is None else str(run),
        dict(entry.details),
    )


def every_model(model: str) -> bool:
    """Tell that whoever asks may see a model's ledger: any."""
    return True


def page_of(
    wanted: EntryFilter, page: int = 1, size: int = PAGE, *, visible: Visible = every_model
) -> EntryPage:
    """Return one page of what a filter lets through; raise `BadInput` and `NotFound`."""
    until = _moment(wanted.at)
    chosen, champions, unreadable = _chosen(wanted, until, visible)
    pages = max(1, -(-len(chosen) // size))
    page = min(max(1, page), pages)
    shown = chosen[(page - 1) * size : page * size]
    views = [view_of(model, entry) for model, entry in shown]
    return EntryPage(views, len(chosen), page, pages, champions, unreadable)


def exported_csv(wanted: EntryFilter, *, visible: Visible = every_model) -> str:
    """Return all that a filter lets through as a table, newest first."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for view in _all(wanted, visible):
        row = asdict(view)
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    return text.getvalue()


def exported_json(wanted: EntryFilter, *, visible: Visible = every_model) -> str:
    """Return all that a filter lets through, with details, newest first."""
    document = {"version": 1, "entries": [asdict(view) for view in _all(wanted, visible)]}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _cell(value: object) -> object:
    """Return a cell that a spreadsheet takes for text: a formula of somebody's is never run."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _all(wanted: EntryFilter, visible: Visible) -> Iterable[EntryView]:
    chosen, _, unreadable = _chosen(wanted, _moment(wanted.at), visible)
    if unreadable:
        names = "; ".join(f"{model}: {why}" for model, why in unreadable.items())
        raise BadInput(f"an export would lack entries ({names}): mend them, or name a model")
    return (view_of(model, entry) for model, entry in chosen)


def _chosen(
    wanted: EntryFilter, until: datetime | None, visible: Visible
) -> tuple[list[tuple[str, LedgerEntry]], dict[str, str], dict[str, str]]:
    """Return the entries newest first, who served, and which ledgers cannot be read."""
    if wanted.model:
        current_digest(wanted.model)
    names = [wanted.model] if wanted.model else model_names(settings().store())
    models = [name for name in names if visible(name)]
    chosen: list[tuple[str, LedgerEntry]] = []
    champions: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for model in models:
        try:
            entries: Sequence[LedgerEntry] = ledgers.entries(model)
        except Exception as error:  # whatever it is, the other ledgers are shown
            if wanted.model:
                raise
            unreadable[model] = str(error) or repr(error)
            continue
        if until is not None:
            entries = [entry for entry in entries if entry.time <= until]
        reign = ledger.champion(entries)
        if reign is not None and reign.version:
            champions[model] = reign.version
        chosen += [(model, entry) for entry in entries if _fits(entry, wanted)]
    chosen.sort(key=lambda item: (item[1].time, item[1].number), reverse=True)
    return chosen, champions, unreadable


def _fits(entry: LedgerEntry, wanted: EntryFilter) -> bool:
    return (
        wanted.kind in ("", entry.kind.value)
        and wanted.actor in ("", entry.actor)
        and wanted.version in ("", entry.version)
        and wanted.text.casefold() in entry.reason.casefold()
    )


def _moment(text: str) -> datetime | None:
    from flows.queries.served import moment_of

    return moment_of(text) if text else None


KINDS = tuple(kind.value for kind in EntryKind)
"""What may be filtered by."""
