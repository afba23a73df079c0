"""Ledgers as an audit reads them: filtered, a page at a time, at a point in time, exported."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from flows.queries.console.indexed import (
    PATIENCE_S,
    Readable,
    index,
    microseconds,
    moment_of_row,
)
from infra.errors import BadInput
from infra.settings import settings
from infra.stores.entry_table import EntryRow, RowFilter
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.specs.registration import current_digest, model_names

PAGE = 50
"""Entries of one page."""
MOST = 1000
"""Entries that a page may have."""
PIECE = 500
"""Entries of an export that are in memory at a time."""
EXPORT_PATIENCE_S = 60.0
"""How long an export waits for ledgers that were never read in this workspace."""
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
    known, filtered = _known(wanted, visible, PATIENCE_S)
    total = index.count(filtered)
    pages = max(1, -(-total // size))
    page = min(max(1, page), pages)
    shown, changed = index.page(filtered, (page - 1) * size, size)
    views = [view_of(model, entry) for model, entry in shown]
    champions = index.champions(known.models, filtered.until)
    return EntryPage(views, total, page, pages, champions, known.unreadable | changed)


def page_with(model: str, number: int, size: int = PAGE) -> int:
    """Return on which page of a model's ledger an entry stands; raise `NotFound`."""
    current_digest(model)
    index.require(model)
    total = index.count(RowFilter((model,)))
    return max(0, total - number) // size + 1


def exported_csv(wanted: EntryFilter, *, visible: Visible = every_model) -> Iterator[str]:
    """Return all that a filter lets through as a table, newest first, in pieces."""
    return _as_table(_whole(wanted, visible))


def exported_json(wanted: EntryFilter, *, visible: Visible = every_model) -> Iterator[str]:
    """Return all that a filter lets through, with details, newest first, in pieces."""
    return _as_document(_whole(wanted, visible))


def _whole(wanted: EntryFilter, visible: Visible) -> RowFilter:
    """Return the filter of an export; raise `BadInput` where it would lack entries."""
    known, filtered = _known(wanted, visible, EXPORT_PATIENCE_S)
    if known.unreadable:
        names = "; ".join(f"{model}: {why}" for model, why in known.unreadable.items())
        raise BadInput(f"an export would lack entries ({names}): mend them, or name a model")
    return filtered


def _as_table(filtered: RowFilter) -> Iterator[str]:
    yield _lines([COLUMNS])
    rows = index.rows(filtered)
    while some := list(islice(rows, PIECE)):
        yield _lines(_line(model, row) for model, row in some)


def _line(model: str, row: EntryRow) -> list[object]:
    known = {"model": model, "time": moment_of_row(row).isoformat()}
    return [_cell(known[name] if name in known else getattr(row, name)) for name in COLUMNS]


def _lines(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _as_document(filtered: RowFilter) -> Iterator[str]:
    before, rows = '{\n "version": 1,\n "entries": [', index.rows(filtered)
    while some := list(islice(rows, PIECE)):
        for (model, _), entry in zip(some, index.entries(some), strict=True):
            yield before + "\n" + json.dumps(asdict(view_of(model, entry)), ensure_ascii=False)
            before = ","
    yield ("" if before == "," else before) + "\n]}\n"


def _cell(value: object) -> object:
    """Return a cell that a spreadsheet takes for text: a formula of somebody's is never run."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _known(wanted: EntryFilter, visible: Visible, patience_s: float) -> tuple[Readable, RowFilter]:
    """Return which ledgers can be read, and what to ask of them."""
    moment = _moment(wanted.at)
    if wanted.model:
        current_digest(wanted.model)
    names = [wanted.model] if wanted.model else model_names(settings().store())
    models = [name for name in names if visible(name)]
    if wanted.model and models:
        index.require(wanted.model)
    known = index.readable(models, patience_s)
    until = None if moment is None else microseconds(moment)
    asked = (wanted.kind, wanted.actor, wanted.version, wanted.text)
    return known, RowFilter(known.models, *asked, until)


def _moment(text: str) -> datetime | None:
    from flows.queries.served import moment_of

    return moment_of(text) if text else None


KINDS = tuple(kind.value for kind in EntryKind)
"""What may be filtered by."""
