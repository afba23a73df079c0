"""The ledgers, for an audit: filtered, at a point in time, exported."""

from collections.abc import Callable
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from dashboards.console.permissions import caller
from dashboards.console.rendering import show
from flows.queries.console import entries
from flows.queries.console.entries import EntryFilter, EntryPage
from infra.access.roles import Role
from infra.settings import settings
from tasks.specs.registration import model_names

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api", tags=["audit"])
Short = Annotated[str, Query(max_length=200)]
PageNumber = Annotated[int, Query(ge=1)]
MEDIA = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


def visible(request: Request) -> Callable[[str], bool]:
    """Return which models' ledgers the caller may see."""
    who = caller(request)
    return lambda model: who.may(Role.VIEWER, model)


@router.get("/audit")
def audit_page(
    request: Request,
    model: Short = "",
    kind: Short = "",
    actor: Short = "",
    version: Short = "",
    text: Short = "",
    at: Short = "",
    page: PageNumber = 1,
    entry: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """Show entries of ledgers, newest first; the page that holds an `entry` of a model."""
    wanted = EntryFilter(model, kind, actor, version, text, at)
    if entry and wanted == EntryFilter(model):
        page = entries.page_with(model, entry)
    shown = entries.page_of(wanted, page, visible=visible(request))
    fields = {name: getattr(wanted, name) for name in EntryFilter.__slots__}
    chosen = {name: value for name, value in fields.items() if value}
    return show(
        request,
        "audit.html.j2",
        shown=shown,
        wanted=wanted,
        models=[name for name in model_names(settings().store()) if visible(request)(name)],
        kinds=entries.KINDS,
        address=f"/audit?{urlencode({**chosen, 'page': ''})}",
        export=lambda form: f"/audit/export.{form}?{urlencode(chosen)}",
    )


@api.get("/audit")
def audit_entries(
    request: Request,
    model: Short = "",
    kind: Short = "",
    actor: Short = "",
    version: Short = "",
    text: Short = "",
    at: Short = "",
    page: PageNumber = 1,
    size: Annotated[int, Query(ge=1, le=entries.MOST)] = entries.PAGE,
) -> EntryPage:
    """Return entries of ledgers, newest first, and who served at that moment; 400, 404."""
    wanted = EntryFilter(model, kind, actor, version, text, at)
    return entries.page_of(wanted, page, size, visible=visible(request))


@router.get("/audit/export.{form}")
def audit_export(
    request: Request,
    form: Literal["csv", "json"],
    model: Short = "",
    kind: Short = "",
    actor: Short = "",
    version: Short = "",
    text: Short = "",
    at: Short = "",
) -> Response:
    """Return all that a filter lets through as a file; none where a ledger cannot be read."""
    wanted = EntryFilter(model, kind, actor, version, text, at)
    export = entries.exported_csv if form == "csv" else entries.exported_json
    content = export(wanted, visible=visible(request))
    name = f'attachment; filename="requant-audit.{form}"'
    return StreamingResponse(content, media_type=MEDIA[form], headers={"Content-Disposition": name})
