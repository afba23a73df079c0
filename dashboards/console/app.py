"""The console's application behind the guard: headers, errors as pages, and the routes."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from dashboards.console import actions, pages
from dashboards.console.pages import show
from infra.access.secret import WorkspaceSecret
from infra.errors import AlreadyExists, BadInput, NotFound, Refused, RequantError, Unavailable
from infra.processes.serve import Guarded
from infra.settings import settings

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # also: going back asks for a fresh form
    # with none, browsers would call the origin of our own forms null
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
STATUS: tuple[tuple[type[RequantError], int], ...] = (
    (NotFound, 404),
    (Refused, 409),
    (AlreadyExists, 409),
    (BadInput, 400),
    (Unavailable, 503),
)
Next = Callable[[Request], Awaitable[Response]]


def application() -> Guarded:
    """Return the workspace's console for the guard."""
    os.environ.setdefault(
        "PREFECT_API_URL", "http://127.0.0.1:9/api"
    )  # nobody: never a server of Prefect's own making
    return Guarded(create_app(settings().secret()))


def create_app(secret: WorkspaceSecret) -> FastAPI:
    """Return the application; its forms are signed by the workspace's secret."""
    app = FastAPI(title="Requant console", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.secret = secret
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.include_router(pages.router)
    app.include_router(actions.router)
    app.middleware("http")(_with_headers)
    app.add_exception_handler(RequantError, _failed)
    app.add_exception_handler(RequestValidationError, _wrong_form)
    app.add_exception_handler(HTTPException, _no_such_page)
    return app


async def _with_headers(request: Request, call_next: Next) -> Response:
    response = await call_next(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _failed(request: Request, exc: Exception) -> Response:
    status = next((code for kind, code in STATUS if isinstance(exc, kind)), 500)
    return _error_page(request, status, str(exc))


def _wrong_form(request: Request, exc: Exception) -> Response:
    """Answer with a page: FastAPI's own answer is JSON, for programs."""
    errors = exc.errors() if isinstance(exc, RequestValidationError) else []
    wrong = "; ".join(f"{error['loc'][-1]}: {error['msg']}" for error in errors)
    return _error_page(request, 400, f"the form is not complete ({wrong}): go back and correct it")


def _no_such_page(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, HTTPException):
        raise exc
    sentence = (
        "there is no such page: start from the list of models"
        if exc.status_code == 404
        else exc.detail
    )
    return _error_page(request, exc.status_code, sentence)


def _error_page(request: Request, status: int, sentence: str) -> Response:
    return show(request, "error.html.j2", status=status, code=status, sentence=sentence)
