"""Runs: the newest, and one of them while it lasts."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from dashboards.console.pages.model import ends_of
from dashboards.console.rendering import asked, show
from flows.queries import runs
from flows.queries.console.ledgers import ledgers
from flows.queries.runs import RunView
from infra.errors import RequantError
from tasks.promotion.ledger import LedgerEntry
from tasks.specs.registration import current_digest

RUNS = 50
STOP_POLLING = 286
"""htmx's own status: swap this in and ask no more."""
router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api", tags=["runs"])


@router.get("/runs")
def runs_page(request: Request) -> Response:
    """Show the newest runs."""
    newest, note = asked(lambda: runs.recent_runs(RUNS))
    ends: dict[str, str] = {}
    for model in {run.model for run in newest or () if run.model}:
        ends |= ends_of(_history(model))
    return show(request, "runs.html.j2", note=note, runs=newest or (), ends=ends)


@router.get("/runs/{run_id}")
def run_page(request: Request, run_id: str) -> Response:
    """Show one run, watched while it lasts; raise `NotFound` and `Unavailable`."""
    run = runs.read_run(run_id)
    return show(request, "run.html.j2", run=run, outcome=_outcome(run))


@router.get("/runs/{run_id}/progress")
def run_progress(request: Request, run_id: str) -> Response:
    """Show the part of a run's page that changes; the last answer ends the polling."""
    run, note = asked(lambda: runs.read_run(run_id))
    status = STOP_POLLING if run and run.finished else 200
    outcome = _outcome(run) if run else None
    return show(request, "progress.html.j2", status=status, note=note, run=run, outcome=outcome)


def _outcome(run: RunView) -> str | None:
    """Return what the run itself wrote at its end."""
    return ends_of(_history(run.model)).get(run.run_id) if run.model and run.finished else None


def _history(model: str) -> Sequence[LedgerEntry]:
    """Return the ledger; nothing of a model that was never registered or cannot be read."""
    try:
        current_digest(model)
        return ledgers.entries(model)
    except RequantError:
        return ()
