"""MLflow's server over the workspace's own database, as an application for the guard."""

from __future__ import annotations

import os
import uuid
from collections.abc import Awaitable, Callable
from typing import cast

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from infra.access.roles import EVERY, Needs, Role
from infra.processes.serve import Guarded
from infra.settings import settings

CHOICE = (
    b"<script>localStorage.getItem('mlflow.workflowType_v1') || "
    b"localStorage.setItem('mlflow.workflowType_v1', '\"machine_learning\"')</script>"
)
ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
READ_BY_POST = ("/search", "/graphql", "/search-datasets")
"""Ends of paths that MLflow's pages read by POST."""
Next = Callable[[Request], Awaitable[Response]]


def application() -> Guarded:
    """Return MLflow's server: its tables made or migrated, its files below the workspace."""
    chosen = settings()
    database, files = chosen.mlflow_uri, chosen.artifact_root
    # Imported late: what MLflow's command line hands to its own server process is read as it loads.
    from mlflow import server
    from mlflow.server.handlers import initialize_backend_stores

    os.environ |= {
        server.BACKEND_STORE_URI_ENV_VAR: database,
        server.ARTIFACT_ROOT_ENV_VAR: files,
        server._MLFLOW_SGI_NAME.name: "uvicorn",
        server._MLFLOW_SERVER_BOOT_ID.name: uuid.uuid4().hex,
    }
    initialize_backend_stores(database, None, files)
    from mlflow.server.fastapi_app import app

    app.middleware("http")(_on_models_first)
    app.middleware("http")(_without_assistant)
    return Guarded(cast(ASGIApp, app), role_of=role_of)


def role_of(method: str, path: str) -> Needs:
    """Return which role MLflow's own routes need: it shows all models, and asks by POST, too."""
    asks = method == "POST" and path.endswith(READ_BY_POST)
    reads = asks or method in ("GET", "HEAD", "OPTIONS")
    return (Role.VIEWER if reads else Role.ADMIN), EVERY


async def _without_assistant(request: Request, call_next: Next) -> Response:
    """Refuse MLflow's assistant, which runs commands on this host for whoever has a session."""
    if request.url.path.rstrip("/").startswith(ASSISTANT):
        return PlainTextResponse("MLflow's assistant is off: it runs commands on this host.\n", 403)
    return await call_next(request)


async def _on_models_first(request: Request, call_next: Next) -> Response:
    """Let the page open on models and runs.

    MLflow 3.17 asks every new browser whether it came for those or for agents. The choice of a
    person who made one stays.
    """
    response = await call_next(request)
    if request.method != "GET" or request.url.path != "/" or response.status_code != 200:
        return response
    body = b"".join([chunk async for chunk in cast(StreamingResponse, response).body_iterator])  # type: ignore[misc]
    return Response(body.replace(b"<head>", b"<head>" + CHOICE, 1), media_type="text/html")
