"""One model: what serves it, what waits, how it went over time."""

from collections.abc import Sequence

from fastapi import APIRouter, Query, Request, Response

from dashboards.console.forms import new_form
from dashboards.console.rendering import show
from flows.queries.console import over_time, overview
from flows.queries.console.ledgers import ledgers
from flows.queries.console.over_time import ModelOverTime as Drawn
from flows.queries.console.overview import ModelRow
from flows.queries.console.tiers import ModelTiers
from flows.queries.console.watched import labelled
from infra.settings import settings
from infra.stores import layout
from tasks.promotion.decisions import was_thin
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.publishing.served_by import why_not_served
from tasks.records import STORED_DETECTORS
from tasks.specs.registration import current_digest, current_spec
from tasks.traffic.sources import SourceIntake, last_of

NEWEST = 20
"""Entries of the ledger, and of runs, that the page shows; the audit has all."""
router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api", tags=["models"])


@router.get("/models/{model}")
def model_page(request: Request, model: str) -> Response:
    """Show one model: champion, waiting candidates, how it went, history."""
    current_digest(model)
    scheduled = request.app.state.upcoming.answer()
    entries = ledgers.entries(model)
    runs = request.app.state.runs.answer()
    over = over_time.over_time(model)
    row = overview.row(model, scheduled.value)
    return show(
        request,
        "model.html.j2",
        note=scheduled.problem,
        row=row,
        over=over,
        serving=model_tiers(request, model),
        detectors=tuple(
            dict.fromkeys(name for window in over.windows for name in window.detectors)
        ),
        previous=overview.precision(model, row.glance.previous),
        decision=_newest_decision(entries),
        history=entries[: -NEWEST - 1 : -1],
        runs=[labelled(run, ends_of(entries)) for run in runs.value or () if run.model == model][
            :5
        ],
        sources=_sources(model),
        earlier=earlier(row, entries),
        reports=report_keys,
        form=lambda action: new_form(request, action, model),
    )


@api.get("/models/{model}")
def model_glance(request: Request, model: str) -> ModelRow:
    """Return one model at a glance; 404 for an unknown one."""
    current_digest(model)
    return overview.row(model, request.app.state.upcoming.answer().value)


@api.get("/models/{model}/over-time")
def model_over_time(model: str, windows: int = Query(over_time.WINDOWS, ge=1, le=5000)) -> Drawn:
    """Return what the page draws: the newest windows, and what happened since; 404 as above."""
    current_digest(model)
    return over_time.over_time(model, windows)


@api.get("/models/{model}/tiers")
def model_tiers(request: Request, model: str) -> ModelTiers:
    """Return which tier answered how much since the gateway started; 404 as above."""
    current_digest(model)
    unserved = why_not_served(model)
    if unserved is not None:
        return ModelTiers(model, (), unserved)
    answer = request.app.state.tiers.answer()
    known = answer.value or {}
    return ModelTiers(model, known.get(model, ()), answer.problem)


def report_keys(model: str, decision: LedgerEntry) -> tuple[str, ...]:
    """Return where the reports of a decision about a window lie."""
    window = decision.details.get("window")
    if decision.kind is not EntryKind.DECIDED or not isinstance(window, str) or was_thin(decision):
        return ()
    return tuple(
        layout.report(model, window, name)
        for name in (f"{STORED_DETECTORS}.html", "evidently.html")
    )


def ends_of(history: Sequence[LedgerEntry]) -> dict[str, str]:
    """Run -> what it wrote to the ledger at its end, which outlives Prefect's progress notes."""
    return {
        str(entry.details.get("run")): entry.reason
        for entry in history
        if entry.kind is EntryKind.FINISHED
    }


def earlier(row: ModelRow, history: Sequence[LedgerEntry]) -> list[str]:
    """Return versions that reigned before and do not now, newest first."""
    reigns = [
        entry.version
        for entry in history
        if entry.kind in (EntryKind.PROMOTED, EntryKind.ROLLED_BACK) and entry.version
    ]
    present = row.glance.champion.version if row.glance.champion else None
    return [version for version in dict.fromkeys(reversed(reigns)) if version != present]


def _newest_decision(entries: Sequence[LedgerEntry]) -> LedgerEntry | None:
    return next((entry for entry in reversed(entries) if entry.kind is EntryKind.DECIDED), None)


def _sources(model: str) -> list[SourceIntake]:
    """Return what was last read from each source that the spec names."""
    store = settings().store()
    read = (last_of(store, model, source.slug) for source in current_spec(model).sources)
    return [done for done in read if done is not None]
