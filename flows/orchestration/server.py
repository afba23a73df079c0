"""Prefect's server of the workspace, as an application for the guard."""

from __future__ import annotations

import base64
import os
from typing import Any, cast

from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from flows.orchestration.runtime import read_environment_again
from infra.access.roles import EVERY, Needs, Role
from infra.processes.serve import Guarded
from infra.settings import settings

READ_BY_POST = frozenset(
    {
        *("filter", "count", "paginate", "history", "lateness", "counts", "validate"),
        *("count-deployments", "next-runs", "get_scheduled_flow_runs"),
    }
)
"""Last parts of paths that Prefect's pages read by POST."""
OPERATED = frozenset({"set_state", "resume", "pause_deployment", "resume_deployment"})
"""Those by which runs and schedules are stopped and go on."""


def application() -> Guarded:
    """Return Prefect's server with its own basic authentication.

    Whom the guard admits is signed in.
    """
    secret = settings().secret()
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = secret.basic
    read_environment_again()
    from prefect.server.api.server import create_app

    application = create_app(final=True)
    _sign_in_at_the_guard(cast(Any, application))
    credentials = base64.b64encode(secret.basic.encode()).decode()
    return Guarded(
        cast(ASGIApp, application),
        {"authorization": f"Basic {credentials}"},
        own_handshake=True,
        role_of=role_of,
    )


def role_of(method: str, path: str) -> Needs:
    """Return which role Prefect's own routes need: it shows all models, and asks by POST, too.

    Blocks hold secrets. A run that is started there names nobody, so that its flow refuses it.
    """
    last = path.rstrip("/").rpartition("/")[2]
    if "/block_documents" in path or path.endswith("/events/in"):
        return Role.ADMIN, EVERY
    if method in ("GET", "HEAD", "OPTIONS") or (method == "POST" and last in READ_BY_POST):
        return Role.VIEWER, EVERY
    return (Role.OPERATOR if last in OPERATED else Role.ADMIN), EVERY


def _sign_in_at_the_guard(application: Starlette) -> None:
    """Let the pages know of no second login: a browser only comes this far with a session."""
    mounts = (mount for mount in application.routes if isinstance(mount, Mount))
    pages = next((mount.app for mount in mounts if mount.name == "ui"), None)
    for route in getattr(pages, "routes", ()):
        if isinstance(route, APIRoute) and route.path.endswith("/ui-settings"):
            _without_login(route)


def _without_login(route: APIRoute) -> None:
    endpoint = route.dependant.call
    assert endpoint is not None  # noqa: S101  # a route of FastAPI always has its function

    def settings_of_the_pages() -> Any:
        return endpoint().model_copy(update={"auth": None})

    route.dependant.call = settings_of_the_pages
