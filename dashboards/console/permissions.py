"""Which role each route of the console needs, and who asks: one table, enforced before a route."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request

from infra.access.directory import Caller
from infra.access.guard import CALLER
from infra.access.roles import ANY, EVERY, Role
from infra.settings import settings

_PAGES = (
    "/",
    "/api/models",
    "/models/{model}",
    "/api/models/{model}",
    "/api/models/{model}/over-time",
    "/api/models/{model}/tiers",
    "/models/{model}/requantize",
    "/api/models/{model}/plan",
    "/models/{model}/rollback",
    "/api/models/{model}/rollback",
    "/models/{model}/versions/{version}",
    "/models/{model}/versions/{version}/mlflow",
    "/api/models/{model}/versions/{version}",
    "/models/{model}/compare",
    "/api/models/{model}/compare",
    "/runs",
    "/api/runs",
    "/runs/{run_id}",
    "/api/runs/{run_id}",
    "/runs/{run_id}/progress",
    "/runs/{run_id}/events",
    "/audit",
    "/api/audit",
    "/audit/export.{form}",
    "/health",
    "/api/health",
    "/beside/{title}",
    "/reports/{key:path}",
    "/metrics",
    "/assets/plotly.min.js",
    "/favicon.ico",
    "/api/openapi.json",
)
ROLES: Mapping[str, Role] = {
    **{f"GET {path}": Role.VIEWER for path in _PAGES},
    "POST /models/{model}/requantize": Role.OPERATOR,
    "POST /models/{model}/maintain": Role.OPERATOR,
    "POST /models/{model}/rollback": Role.OPERATOR,
    "POST /models/{model}/answer": Role.APPROVER,
    "POST /runs/{run_id}/cancel": Role.OPERATOR,
}
"""Method and path -> the role. Of a path with a model in it, the role is needed for that model.

Lists show the models that the caller may view; a run is its model's.
"""
OF_ALL = ("/metrics",)
"""Paths that tell of every model at once."""


def caller(request: Request) -> Caller:
    """Return who asks, as the guard found out, and what they may."""
    known: Caller = request.scope[CALLER]
    return known


def require_route(request: Request) -> None:
    """Refuse a route that the caller lacks the role for; raises `NotAllowed`."""
    path = str(request.scope["route"].path)
    name = f"{request.method} {path}"
    role = ROLES.get(name, Role.ADMIN)  # a test finds what is left out
    require(request, role, _model_of(request, path), name)


def require(request: Request, role: Role, model: str, act: str) -> None:
    """Refuse what the caller lacks the role for, and note it; raises `NotAllowed`."""
    who = caller(request)
    if not who.may(role, model):
        settings().directory().refuse(who.name, role, model, act)


def require_run(request: Request, role: Role, model: str | None) -> None:
    """Refuse a run that is of a model that the caller lacks the role for; raises `NotAllowed`."""
    act = "see the run" if role is Role.VIEWER else "cancel the run"
    require(request, role, model or EVERY, act)


def _model_of(request: Request, path: str) -> str:
    """Return of which model the role is needed."""
    if "{model}" in path:
        return str(request.path_params["model"])
    if "{key:path}" in path:
        return str(request.path_params["key"]).partition("/")[0]
    return EVERY if path in OF_ALL else ANY
