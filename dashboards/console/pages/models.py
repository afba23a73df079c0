"""The list of models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request, Response

from dashboards.console.permissions import caller
from dashboards.console.rendering import show
from flows.queries.console import overview
from flows.queries.console.overview import ModelRow
from infra.access.roles import Role

State = Literal["", "attention", "waiting", "degraded", "fine", "no-champion"]
Order = Literal["name", "health", "changed", "next"]
_ATTENTION = ("unreadable", "degraded", "inconclusive", "not looked at", "fine")
router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api", tags=["models"])


@dataclass(frozen=True, slots=True)
class ModelList:
    """The models that were asked for."""

    models: list[ModelRow]
    registered: int
    note: str | None  # what is not known, where Prefect did not answer


@router.get("/")
def models_page(request: Request, q: str = "", state: State = "", sort: Order = "name") -> Response:
    """Show every model at a glance."""
    listed = models_list(request, q, state, sort)
    return show(
        request, "models.html.j2", note=listed.note, listed=listed, q=q, state=state, sort=sort
    )


@api.get("/models")
def models_list(
    request: Request, q: str = "", state: State = "", sort: Order = "name"
) -> ModelList:
    """Return every model at a glance: `q` is part of a name, `state` what they are to be in."""
    scheduled = request.app.state.upcoming.answer()
    who = caller(request)
    rows = [row for row in overview.rows(scheduled.value) if who.may(Role.VIEWER, row.name)]
    wanted = [row for row in rows if q.casefold() in row.name.casefold() and _is_in(row, state)]
    return ModelList(sorted(wanted, key=_ORDERS[sort]), len(rows), scheduled.problem)


def _is_in(row: ModelRow, state: State) -> bool:
    """Return whether a model is in a state that people filter by."""
    attention = row.health in ("degraded", "unreadable") or bool(row.next_run.missing)
    return {
        "": True,
        "attention": attention or bool(row.glance.waiting) or row.next_run.overdue_s > 0,
        "waiting": bool(row.glance.waiting),
        "degraded": row.health == "degraded",
        "fine": row.health == "fine",
        "no-champion": row.glance.champion is None,
    }[state]


def _changed(row: ModelRow) -> tuple[str, ...]:
    """Return what brings the newest champion first."""
    since = row.glance.champion.since if row.glance.champion else ""
    return ("".join(chr(0x10FFFF - ord(letter)) for letter in since) or "\U0010ffff", row.name)


_ORDERS: dict[Order, Callable[[ModelRow], tuple[str, ...]]] = {
    "name": lambda row: (row.name,),
    "health": lambda row: (str(_ATTENTION.index(row.health)), row.name),
    "changed": _changed,
    "next": lambda row: (row.next_run.time or "\U0010ffff", row.name),
}
