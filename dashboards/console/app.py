"""The console's application behind the guard: headers, errors as pages, and the routes."""

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from dashboards.console import actions
from dashboards.console.pages import (
    audit,
    beside,
    health,
    model,
    models,
    ordering,
    runs,
    stored,
    versions,
)
from dashboards.console.permissions import require_route
from dashboards.console.rendering import STATIC, show
from flows import schedules
from flows.commands import doctor
from flows.queries import runs as known_runs
from flows.queries import workers
from flows.queries.console import overview, tiers
from flows.queries.console.asking import Asked
from infra.access.problems import problem
from infra.access.secret import WorkspaceSecret
from infra.errors import (
    AlreadyExists,
    BadInput,
    NotAllowed,
    NotFound,
    Refused,
    RequantError,
    Unavailable,
)
from infra.processes.serve import Guarded
from infra.settings import settings

PLOTLYS_STYLES = (
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",  # an empty element, for rules to come
    "'sha256-gG0b4ixT/IQUp7JJLbyKcpYcYDjq2Wp8NGv3f+aasqo='",  # of the maps that it brings along
)
"""The style elements that Plotly adds to a page: no other one is applied."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    f"style-src 'self' {' '.join(PLOTLYS_STYLES)}; img-src 'self' data:; "
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
    (NotAllowed, 403),
    (Refused, 409),
    (AlreadyExists, 409),
    (BadInput, 400),
    (Unavailable, 503),
)
PAGES = (models, model, ordering, versions, runs, audit, health, beside, stored, actions)
TWINS = (models, model, ordering, versions, runs, audit, health)
"""Those whose pages have a twin for programs."""
EXAMINED_S = 60.0
"""How long the page of health shows the same examination."""
KEPT = "private, max-age=31536000, immutable"
"""How long browsers keep our own files, whose addresses change when they do."""
Next = Callable[[Request], Awaitable[Response]]


def application() -> Guarded:
    """Return the workspace's console for the guard."""
    os.environ.setdefault(
        "PREFECT_API_URL", "http://127.0.0.1:9/api"
    )  # nobody: never a server of Prefect's own making
    return Guarded(create_app(settings().secret()))


def create_app(secret: WorkspaceSecret) -> FastAPI:
    """Return the application; its forms are signed by the workspace's secret."""
    app = FastAPI(
        title="Requant console",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=_begun,
        dependencies=[Depends(require_route)],
    )
    app.state.secret = secret
    app.state.upcoming = Asked(lambda: schedules.upcoming())
    app.state.runs = Asked(lambda: known_runs.recent_runs(runs.RUNS), fresh_s=2.0)
    app.state.workers = Asked(lambda: workers.known_workers())
    app.state.tiers = Asked(tiers.counted_tiers)
    app.state.examined = Asked(lambda: doctor.examine(settings()), fresh_s=EXAMINED_S)
    app.mount("/static", StaticFiles(directory=STATIC))
    for module in PAGES:
        app.include_router(module.router)
    for twin in TWINS:
        app.include_router(twin.api)
    app.middleware("http")(_with_headers)
    app.add_exception_handler(RequantError, _failed)
    app.add_exception_handler(RequestValidationError, _wrong_form)
    app.add_exception_handler(HTTPException, _no_such_page)
    return app


@asynccontextmanager
async def _begun(app: FastAPI) -> AsyncIterator[None]:
    """Ask Prefect, and read the ledgers, before the first page does."""
    app.state.upcoming.prime()
    threading.Thread(target=_read_ahead, daemon=True).start()
    yield


def _read_ahead() -> None:
    with suppress(Exception):  # the page says what cannot be read
        overview.rows(None)


async def _with_headers(request: Request, call_next: Next) -> Response:
    response = await call_next(request)
    if request.url.path.startswith(("/static/", "/assets/")):
        response.headers["Cache-Control"] = KEPT
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
    if request.url.path.startswith("/api/"):
        return problem(status, sentence)
    return show(request, "error.html.j2", status=status, code=status, sentence=sentence)
