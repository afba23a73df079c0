"""The ledgers, for an audit: filtered, at a point in time, exported."""

from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from dashboards.console.rendering import show
from flows.queries.console import entries
from flows.queries.console.entries import EntryFilter, EntryPage
from infra.settings import settings
from tasks.specs.registration import model_names

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api", tags=["audit"])
Short = Annotated[str, Query(max_length=200)]
PageNumber = Annotated[int, Query(ge=1)]
MEDIA = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


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
) -> Response:
    """Show entries of ledgers, newest first."""
    wanted = EntryFilter(model, kind, actor, version, text, at)
    shown = entries.page_of(wanted, page)
    fields = {name: getattr(wanted, name) for name in EntryFilter.__slots__}
    chosen = {name: value for name, value in fields.items() if value}
    return show(
        request,
        "audit.html.j2",
        shown=shown,
        wanted=wanted,
        models=model_names(settings().store()),
        kinds=entries.KINDS,
        address=lambda number: f"/audit?{urlencode({**chosen, 'page': number})}",
        export=lambda form: f"/audit/export.{form}?{urlencode(chosen)}",
    )


@api.get("/audit")
def audit_entries(
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
    return entries.page_of(EntryFilter(model, kind, actor, version, text, at), page, size)


@router.get("/audit/export.{form}")
def audit_export(
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
    content = entries.exported_csv(wanted) if form == "csv" else entries.exported_json(wanted)
    name = f'attachment; filename="requant-audit.{form}"'
    return Response(content, media_type=MEDIA[form], headers={"Content-Disposition": name})
