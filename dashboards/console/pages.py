"""What a person reads: models, a version beside the champion, runs; for machines, /metrics."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.templating import Jinja2Templates

from dashboards.console import present
from dashboards.console.forms import new_form, subject
from flows.measures import LiveMeasures
from flows.orchestration.services import neighbours
from flows.queries import versions, views
from flows.queries.runs import RunView, read_run, recent_runs
from flows.queries.views import ModelView
from flows.schedules import overdue, upcoming
from infra.errors import RequantError, Unavailable
from infra.settings import settings
from infra.stores import layout
from infra.telemetry import CONTENT_TYPE, read_snapshots
from tasks.promotion.decisions import was_thin
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.quantization.recipe.catalog import RECIPES
from tasks.records import STORED_DETECTORS
from tasks.specs.registration import current_spec
from tasks.traffic.sources import SourceIntake, last_of

RUNS = 50
STOP_POLLING = 286
"""htmx's own status: swap this in and ask no more."""
REPORT_POLICY = (
    "sandbox{}; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:{}"
)
"""A report holds text from traffic: it gets an origin of its own, and reaches nothing.

Only Evidently's script may run.
"""

_T = TypeVar("_T")
router = APIRouter()
_live = LiveMeasures(overdue)
_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(
    {
        one.__name__: one
        for one in (
            present.ago,
            present.figure,
            present.interval,
            present.percent,
            present.size,
            present.when,
        )
    }
)
_environment.globals.update(
    {"picture": present.picture, "reference": present.reference, "WIDTH": present.WIDTH}
)
_environment.globals["stored_detectors"] = STORED_DETECTORS
_templates = Jinja2Templates(env=_environment)


@router.get("/")
def models_page(request: Request) -> Response:
    """Show every model at a glance."""
    scheduled, note = _asked(upcoming)
    rows = [
        (model, _recipe(model, model.champion), (scheduled or {}).get(model.name))
        for model in views.all_models()
    ]
    return show(request, "models.html.j2", note=note, rows=rows)


@router.get("/models/{model}")
def model_page(request: Request, model: str) -> Response:
    """Show one model: champion, waiting candidates, actions, history."""
    view, history = views.one_model(model), views.history(model)
    scheduled, note = _asked(upcoming)
    runs, _ = (None, None) if note else _asked(lambda: recent_runs(RUNS))
    return show(
        request,
        "model.html.j2",
        note=note,
        model=view,
        champion_recipe=_recipe(view, view.champion),
        previous_recipe=_recipe(view, view.previous),
        upcoming=(scheduled or {}).get(model),
        history=history[::-1],
        runs=[run for run in runs or () if run.model == model][:5],
        ends=_ends(history),
        recipes=RECIPES.values(),
        sources=_sources(model),
        earlier=_earlier(view, history),
        reports=report_keys,
        form=lambda action: new_form(request, action, model),
    )


@router.get("/models/{model}/versions/{version}")
def version_page(request: Request, model: str, version: str) -> Response:
    """Show a version beside the champion and full precision, gate by gate."""
    view = versions.one_version(model, version)
    waiting = [entry for entry in views.one_model(model).waiting if entry.version == version]
    return show(
        request,
        "version.html.j2",
        note=None,
        view=view,
        waiting=waiting,
        form=lambda action: new_form(request, action, model),
    )


@router.get("/runs")
def runs_page(request: Request) -> Response:
    """Show the newest runs."""
    runs, note = _asked(lambda: recent_runs(RUNS))
    ends: dict[str, str] = {}
    for model in {run.model for run in runs or () if run.model}:
        ends |= _ends(_history(model))
    return show(request, "runs.html.j2", note=note, runs=runs or (), ends=ends)


@router.get("/runs/{run_id}")
def run_page(request: Request, run_id: str) -> Response:
    """Show one run, watched while it lasts; raise `NotFound` and `Unavailable`."""
    run = read_run(run_id)
    return show(request, "run.html.j2", note=None, run=run, outcome=_outcome(run))


@router.get("/runs/{run_id}/progress")
def run_progress(request: Request, run_id: str) -> Response:
    """Show the part of a run's page that changes; the last answer ends the polling."""
    run, note = _asked(lambda: read_run(run_id))
    status = STOP_POLLING if run and run.finished else 200
    outcome = _outcome(run) if run else None
    return show(request, "progress.html.j2", status=status, note=note, run=run, outcome=outcome)


@router.get("/reports/{key:path}")
def report(key: str) -> Response:
    """Show a stored drift report, shut in; raise `NotFound`."""
    scripts = key.endswith("/evidently.html")
    policy = REPORT_POLICY.format(
        *((" allow-scripts", "; script-src 'unsafe-inline'") if scripts else ("", ""))
    )
    page = views.report_page(f"reports/{key}")
    return Response(
        page, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy}
    )


@router.get("/metrics")
def metrics() -> Response:
    """Return every model's newest figures for Prometheus, which shows the key as a bearer."""
    page = read_snapshots(settings().root / "metrics", _live.samples())
    return Response(page, headers={"Content-Type": CONTENT_TYPE})


@router.get("/favicon.ico")
def favicon() -> Response:
    """Answer with a short no: the page names an SVG, and some browsers ask anyway."""
    return PlainTextResponse("", status_code=404)


def show(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """Render a page; `actor` and the neighbours' addresses are known to every template."""
    context["actor"] = subject(request)
    context["neighbours"] = neighbours(settings(), host=request.url.hostname or "127.0.0.1")
    return _templates.TemplateResponse(request, template, context, status_code=status)


def report_keys(model: str, decision: LedgerEntry) -> tuple[str, ...]:
    """Return where the reports of a decision about a window lie."""
    window = decision.details.get("window")
    if decision.kind is not EntryKind.DECIDED or not isinstance(window, str) or was_thin(decision):
        return ()
    return tuple(
        layout.report(model, window, name)
        for name in (f"{STORED_DETECTORS}.html", "evidently.html")
    )


def _asked(ask: Callable[[], _T]) -> tuple[_T | None, str | None]:
    """Return the answer, or why there is none: what the ledger knows is shown without Prefect."""
    try:
        return ask(), None
    except Unavailable as exc:
        return None, str(exc)


def _recipe(model: ModelView, entry: LedgerEntry | None) -> str:
    if entry is None or entry.release is None:
        return ""
    try:
        recipe = settings().release(model.name, entry.release).facts["recipe"]
    except RequantError:
        return "unreadable release"  # the version's own page says why
    return str(recipe["name"]) if isinstance(recipe, dict) else ""


def _earlier(model: ModelView, history: Sequence[LedgerEntry]) -> list[str]:
    """Return versions that reigned before and do not now, newest first."""
    reigns = [
        entry.version
        for entry in history
        if entry.kind in (EntryKind.PROMOTED, EntryKind.ROLLED_BACK) and entry.version
    ]
    present = model.champion.version if model.champion else None
    return [version for version in dict.fromkeys(reversed(reigns)) if version != present]


def _outcome(run: RunView) -> str | None:
    """Return what the run itself wrote at its end."""
    return _ends(_history(run.model)).get(run.run_id) if run.model and run.finished else None


def _sources(model: str) -> list[SourceIntake]:
    """Return what was last read from each source that the spec names."""
    store = settings().store()
    read = (last_of(store, model, source.slug) for source in current_spec(model).sources)
    return [done for done in read if done is not None]


def _ends(history: Sequence[LedgerEntry]) -> dict[str, str]:
    """Run -> what it wrote to the ledger at its end, which outlives Prefect's progress notes."""
    return {
        str(entry.details.get("run")): entry.reason
        for entry in history
        if entry.kind is EntryKind.FINISHED
    }


def _history(model: str) -> Sequence[LedgerEntry]:
    """Return the ledger; nothing of a model that was never registered or cannot be read."""
    try:
        return views.history(model)
    except RequantError:
        return ()
