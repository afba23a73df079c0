"""Runs: the newest, and one of them while it lasts."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from dashboards.console.forms import new_form
from dashboards.console.pages.model import ends_of
from dashboards.console.permissions import caller, require_run
from dashboards.console.rendering import asked, rendered, show
from flows.queries import runs
from flows.queries.console.indexed import acts_of
from flows.queries.console.watched import WatchedRun, labelled, told_by_ledger, watched
from flows.queries.runs import RunView
from infra.access.roles import EVERY, Role
from infra.errors import NotFound, RequantError
from tasks.promotion.ledger import LedgerEntry
from tasks.specs.registration import current_digest

RUNS = 50
STOP_POLLING = 286
"""Swap this in and ask no more."""
EVERY_S, SOON_S = 0.5, 0.2
"""How often a watched run is asked for; and at first, while a person waits for what they began."""
AT_FIRST = 50
"""Questions of a stream that come soon after each other."""
LONGEST = 3600
"""Questions of one stream; browsers open another."""
router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api", tags=["runs"])


@dataclass(frozen=True, slots=True)
class RunList:
    """The newest runs."""

    runs: list[WatchedRun]
    note: str | None  # why there are none, where Prefect did not answer


@router.get("/runs")
def runs_page(request: Request) -> Response:
    """Show the newest runs."""
    listed = runs_list(request)
    return show(request, "runs.html.j2", note=listed.note, runs=listed.runs)


@api.get("/runs")
def runs_list(request: Request) -> RunList:
    """Return the newest runs, without their steps and log lines."""
    recent, note = asked(lambda: runs.recent_runs(RUNS))
    who = caller(request)
    newest = [run for run in recent or () if who.may(Role.VIEWER, run.model or EVERY)]
    ends: dict[str, str] = {}
    for model in {run.model for run in newest if run.model}:
        ends |= ends_of(_history(model))
    return RunList([labelled(run, ends) for run in newest], note)


@router.get("/runs/{run_id}")
def run_page(request: Request, run_id: str, model: str = "") -> Response:
    """Show one run, watched while it lasts; raise `NotFound` and `Unavailable`.

    Where `model` says whose run it was, one that Prefect does not have is told by the ledger.
    """
    return show(request, "run.html.j2", **_shown(request, watched(_read(request, run_id, model))))


@api.get("/runs/{run_id}")
def run_watched(request: Request, run_id: str, model: str = "") -> WatchedRun:
    """Return one run with steps, candidates, log lines and ledger entries; 404, 503.

    With its `model`, also one that the Prefect server in use does not have.
    """
    return watched(_read(request, run_id, model))


@router.get("/runs/{run_id}/progress")
def run_progress(request: Request, run_id: str) -> Response:
    """Show the part of a run's page that changes; the last answer ends the polling."""
    run, note = asked(lambda: _read(request, run_id))
    status = STOP_POLLING if run and run.finished else 200
    known = watched(run) if run else None
    return show(
        request, "progress.html.j2", status=status, **(_shown(request, known) | {"note": note})
    )


@router.get("/runs/{run_id}/events")
async def run_events(request: Request, run_id: str) -> Response:
    """Stream the same part as it changes, as server-sent events."""
    return StreamingResponse(
        _events(request, run_id),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def _events(request: Request, run_id: str) -> AsyncIterator[str]:
    before = ""
    for asked_before in range(LONGEST):
        if await request.is_disconnected():
            return
        fragment, finished = await run_in_threadpool(partial(_fragment, request, run_id))
        if fragment != before:
            before = fragment
            yield f"event: progress\ndata: {json.dumps(fragment)}\n\n"
        if finished:
            yield "event: finished\ndata: {}\n\n"
            return
        await asyncio.sleep(SOON_S if asked_before < AT_FIRST else EVERY_S)


def _fragment(request: Request, run_id: str) -> tuple[str, bool]:
    """Return the part that changes, and whether it changes no more."""
    try:
        run, note = asked(lambda: _read(request, run_id))
    except RequantError as error:
        run, note = None, str(error)
    known = watched(run) if run else None
    page = rendered(request, "progress.html.j2", **(_shown(request, known) | {"note": note}))
    return page, bool(run and run.finished)


def _read(request: Request, run_id: str, model: str = "") -> RunView:
    """Return a run that the caller may see; raise `NotAllowed`, `NotFound`, `Unavailable`."""
    try:
        run = runs.read_run(run_id)
    except NotFound:
        if not model:
            raise
        require_run(request, Role.VIEWER, model)
        return told_by_ledger(run_id, model)
    require_run(request, Role.VIEWER, run.model)
    return run


def _shown(request: Request, known: WatchedRun | None) -> dict[str, Any]:
    """Return what a template shows of a run."""
    if known is None:
        return {"known": None, "run": None}
    model = known.run.model or EVERY
    over = known.run.finished or not caller(request).may(Role.OPERATOR, model)
    form = "" if over else new_form(request, "cancel", known.run.run_id)
    return {"known": known, "run": known.run, "cancel_form": form}


def _history(model: str) -> Sequence[LedgerEntry]:
    """Return the ledger; nothing of a model that was never registered or cannot be read."""
    try:
        current_digest(model)
        return acts_of(model)
    except RequantError:
        return ()
