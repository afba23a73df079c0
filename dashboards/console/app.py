"""The console's application: access and headers around every answer, errors as pages, and the routes."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from dashboards.console import actions, pages
from dashboards.console.access import Access
from dashboards.console.pages import show
from infra.errors import AlreadyExists, BadInput, NotFound, Refused, RequantError, Unavailable

HOSTS = ["127.0.0.1", "localhost"]
"""Names that a request may call this server by: a page of another site that resolves here does not (DNS rebinding)."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # also: going back asks for a fresh form
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
NO_TOKEN = "Open the console by the address with the token that `python -m dashboards.console` printed.\n"  # noqa: S105  # no token
STATUS: tuple[tuple[type[RequantError], int], ...] = (
    (NotFound, 404),
    (Refused, 409),
    (AlreadyExists, 409),
    (BadInput, 400),
    (Unavailable, 503),
)
Next = Callable[[Request], Awaitable[Response]]


def create_app(token: str) -> FastAPI:
    """The application that this token opens; raises `BadInput` for an empty one."""
    if not token:
        raise BadInput("the console's token is empty: leave REQUANT_CONSOLE_TOKEN unset to have one made")
    app = FastAPI(title="Requant console", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.access = Access(token)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.include_router(pages.router)
    app.include_router(actions.router)
    app.middleware("http")(_guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    app.add_exception_handler(RequantError, _failed)
    app.add_exception_handler(RequestValidationError, _wrong_form)
    app.add_exception_handler(HTTPException, _no_such_page)
    return app


async def _guard(request: Request, call_next: Next) -> Response:
    response = await _admitted(request, call_next)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


async def _admitted(request: Request, call_next: Next) -> Response:
    access: Access = request.app.state.access
    if request.url.path == "/health" or access.remembers(request.cookies.get(access.cookie)) or _bears(request):
        return await call_next(request)
    if not access.admits(request.query_params.get("token")):
        return PlainTextResponse(NO_TOKEN, status_code=401, headers={"WWW-Authenticate": "Bearer"})
    if request.url.path == "/metrics":
        return await call_next(request)
    response = RedirectResponse(str(request.url.remove_query_params("token")), status_code=303)
    response.set_cookie(access.cookie, access.session, httponly=True, samesite="strict")
    return response


def _bears(request: Request) -> bool:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    access: Access = request.app.state.access
    return scheme.lower() == "bearer" and access.admits(token.strip())


def _failed(request: Request, exc: Exception) -> Response:
    status = next((code for kind, code in STATUS if isinstance(exc, kind)), 500)
    return _error_page(request, status, str(exc))


def _wrong_form(request: Request, exc: Exception) -> Response:
    """FastAPI's own answer is JSON, for programs."""
    errors = exc.errors() if isinstance(exc, RequestValidationError) else []
    wrong = "; ".join(f"{error['loc'][-1]}: {error['msg']}" for error in errors)
    return _error_page(request, 400, f"the form is not complete ({wrong}): go back and correct it")


def _no_such_page(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, HTTPException):
        raise exc
    sentence = "there is no such page: start from the list of models" if exc.status_code == 404 else exc.detail
    return _error_page(request, exc.status_code, sentence)


def _error_page(request: Request, status: int, sentence: str) -> Response:
    return show(request, "error.html.j2", status=status, code=status, sentence=sentence)
