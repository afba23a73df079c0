"""The guard of one port: nobody gets past it who is not this workspace's own.

A request is refused when it calls the server by another name (DNS rebinding), when a page of
another origin sent it (CSRF; every other port of this machine is another origin), or when it shows
neither the key nor a session.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.access.directory import CURRENT, OWNER, PROGRAM, Caller, Directory
from infra.access.oidc import Provider, oidc_pages
from infra.access.problems import page, problem
from infra.access.roles import ANY, Needs, Role
from infra.access.secret import WorkspaceSecret
from infra.access.sessions import Session, Sessions
from infra.access.sign_in import (
    LOCKED,
    SIGN_IN,
    TokenDoor,
    led_on,
    note_sign_in,
    sign_in_form,
    sign_in_pages,
    with_session,
)
from infra.errors import NotAllowed, RequantError

HEALTH = "/-/health"
"""Open to everybody; says nothing but who answers, and proves it to whoever knows the secret."""
LOGIN = "login"
"""The query parameter that carries a link's token."""
SUBJECT = "requant.subject"
"""Where the guarded application finds who is asking, in the ASGI scope."""
CALLER = "requant.caller"
"""Where it finds what they may, likewise."""
OURS = "/-/"
"""Below which the guard has pages of its own, at every port."""
NAMES = ("127.0.0.1", "localhost", "[::1]")
SAFE = ("GET", "HEAD", "OPTIONS")
FOREIGN_HOST = "This server answers to 127.0.0.1 and localhost only."
FOREIGN_ORIGIN = "A page of another origin may not ask this server."
SHOW_TOKEN = f"Show your token as a bearer, or sign in at {SIGN_IN} with a browser."
LOG_IN = (
    "Show the workspace's key as a bearer (`requant key`), or open the console by the link that "
    "`requant up` or `requant link` prints."
)


def viewer(method: str, path: str) -> Needs:
    """Return the role that whoever is let in at all has."""
    return Role.VIEWER, ANY


class Guard:
    """ASGI middleware around one service of the workspace."""

    def __init__(
        self,
        app: ASGIApp,
        service: str,
        secret: WorkspaceSecret,
        *,
        credentials: Mapping[str, str] | None = None,
        own_handshake: bool = False,
        directory: Directory | None = None,
        oidc: Provider | None = None,
        role_of: Callable[[str, str], Needs] = viewer,
    ) -> None:
        """Guard an application with a workspace's secret.

        Args:
            app: What is guarded.
            service: Its name.
            secret: What keys, links and sessions follow from.
            credentials: Headers that the application itself wants of whoever was admitted.
            own_handshake: Whether a websocket that no browser opened goes on to the application's
                own handshake.
            directory: Who the users are; None: whoever is let in may do everything.
            oidc: Where people may sign in beside; None: by tokens and links alone.
            role_of: Which role a method and path need, of which model.
        """
        self._app = app
        self._service = service
        self._secret = secret
        self._sessions = Sessions(secret)
        self._credentials = dict(credentials or {})
        self._own_handshake = own_handshake
        self._directory = directory
        self._role_of = role_of
        if directory is not None:
            self._door = TokenDoor(directory)
            pages = None if oidc is None else oidc_pages(oidc, self._sessions, directory)
            self._form = partial(sign_in_form, has_oidc=oidc is not None)
            self._pages = sign_in_pages(self._sessions, directory, self._door, self._form, pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer for the application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._answer(scope)
        except NotAllowed as error:
            answer = _refusal(scope, 403, str(error))
        except RequantError as error:
            answer = _refusal(scope, 503, str(error))
        if answer is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope) -> ASGIApp | None:
        """Return the guard's own answer.

        None lets the request through, with its subject noted in the scope.
        """
        headers = Headers(scope=scope)
        if not _calls_us(headers, scope):
            return _refusal(scope, 421, FOREIGN_HOST)
        if _is_foreign(headers, scope):
            return _refusal(scope, 403, FOREIGN_ORIGIN)
        if scope["type"] == "http" and scope["path"] == HEALTH:
            return self._health(scope)
        if self._directory is not None and self._directory.is_stale:
            await asyncio.to_thread(self._directory.accounts)
        if self._has_own_page(scope, headers):
            return self._pages
        logged_in = await self._logged_in(scope, headers)
        if logged_in is not None:  # before an earlier session: whoever opens a link means this one
            return logged_in
        subject = await self._subject(headers, scope)
        if isinstance(subject, str):
            await self._admit(scope, subject)
            return None
        if self._own_handshake and scope["type"] == "websocket" and "origin" not in headers:
            return None
        return self._stranger(scope, headers) if subject is None else _locked(scope, subject)

    def _has_own_page(self, scope: Scope, headers: Headers) -> bool:
        ours = scope["type"] == "http" and str(scope["path"]).startswith(OURS)
        safe = scope.get("method") in SAFE
        return self._directory is not None and ours and (safe or _same_origin(headers))

    async def _subject(self, headers: Headers, scope: Scope) -> str | int | None:
        """Return who asks; None where nothing shows it, seconds to wait where too much did."""
        shown = _shown_key(headers.get("authorization", ""))
        if shown is not None:
            if hmac.compare_digest(shown.encode(), self._secret.key.encode()):
                return PROGRAM
            if self._has_users:
                client = scope.get("client") or ("", 0)
                user = await self._door.user_of(shown, str(client[0]))
                return user[0] if isinstance(user, tuple) else user
        if scope.get("method", "GET") not in SAFE and not _same_origin(headers):
            return None  # a session alone is not enough to change something: the page must be ours
        session = self._sessions.of_session(_cookies(headers).get(self._sessions.cookie))
        return session.subject if session is not None and self._counts(session) else None

    def _counts(self, session: Session) -> bool:
        return self._directory is None or self._directory.admits(session)

    @property
    def _has_users(self) -> bool:
        return self._directory is not None and self._directory.in_use

    async def _admit(self, scope: Scope, subject: str) -> None:
        """Note who asks; raises `NotAllowed` where they lack the role that the service wants.

        The key is what this workspace's own processes show, and theirs is every service.
        """
        scope[SUBJECT] = subject
        scope[CALLER] = Caller(subject, OWNER)
        if self._directory is not None:
            scope[CALLER] = self._directory.caller(subject)
            if subject != PROGRAM:
                await asyncio.to_thread(self._require_role, scope, subject)
        CURRENT.set(scope[CALLER])
        headers = MutableHeaders(scope=scope)
        for name, value in self._credentials.items():
            headers[name] = value

    def _require_role(self, scope: Scope, subject: str) -> None:
        method, path = str(scope.get("method", "GET")), str(scope["path"])
        role, model = self._role_of(method, path)
        act = f"ask {self._service} for {method} {path}"
        if self._directory is not None and not scope[CALLER].may(role, model):
            self._directory.refuse(subject, role, model, act)

    def _stranger(self, scope: Scope, headers: Headers) -> Response:
        """Ask a person to sign in where the store has users, and a program for its token."""
        if not self._has_users:
            return _refusal(scope, 401, LOG_IN, {"WWW-Authenticate": "Bearer"})
        if "text/html" in headers.get("accept", "") and scope.get("method") in SAFE:
            return self._form(status=401)
        return _refusal(scope, 401, SHOW_TOKEN, {"WWW-Authenticate": "Bearer"})

    def _health(self, scope: Scope) -> Response:
        nonce = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"))).get("nonce", "")
        port = (scope.get("server") or ("", 0))[1] or 0
        document = {
            "service": self._service,
            "proof": proof(self._secret, self._service, port, nonce),
        }
        return Response(json.dumps(document), media_type="application/json")

    async def _logged_in(self, scope: Scope, headers: Headers) -> Response | None:
        """Exchange a link's token for a session, and forget it from the address."""
        if scope.get("method") != "GET":
            return None
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        subject = self._sessions.of_link(dict(query).get(LOGIN))
        if subject is None:
            return None
        rest = urlencode([(name, value) for name, value in query if name != LOGIN])
        target = "/" + str(scope["path"]).lstrip("/")  # two slashes would name another host
        session = self._sessions.opened(subject)
        if self._directory is not None:
            if not self._counts(session):
                return None
            await asyncio.to_thread(note_sign_in, self._directory, session)
        response = led_on(target + (f"?{rest}" if rest else ""), headers)
        return with_session(response, self._sessions, session)


def proof(secret: WorkspaceSecret, service: str, port: int, nonce: str) -> str:
    """Return what only a holder of the secret can answer to a nonce, for one service at one port.

    With the port, a stranger at an old port of ours cannot pass on what the service answers at its
    present one.
    """
    key = secret.derived("health").encode()
    return hmac.new(key, f"{service} {port} {nonce}".encode(), hashlib.sha256).hexdigest()


def _refusal(
    scope: Scope, status: int, sentence: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a page for a browser, and a problem document for a program.

    Its member `error` is where clients of the Open Inference Protocol and OpenAI's look.
    """
    if "text/html" in Headers(scope=scope).get("accept", ""):
        shown = page("Not allowed", f"<p>{escape(sentence)}</p>", status)
        shown.headers.update(headers or {})
        return shown
    return problem(status, sentence, headers, {"error": sentence})


def _locked(scope: Scope, wait: int) -> Response:
    return _refusal(scope, 429, LOCKED.format(wait=wait), {"Retry-After": str(wait)})


def _calls_us(headers: Headers, scope: Scope) -> bool:
    """Tell whether the Host header is a name of this machine with the port that was reached."""
    hosts = headers.getlist("host")
    port = (scope.get("server") or ("", 80))[1] or 80
    ours = {f"{name}:{port}" for name in NAMES} | ({*NAMES} if port == 80 else set())
    return len(hosts) == 1 and hosts[0].lower() in ours


def _is_foreign(headers: Headers, scope: Scope) -> bool:
    """Tell whether a page of another origin sent this; following a link to here is fine."""
    if any(origin != f"http://{headers['host']}" for origin in headers.getlist("origin")):
        return True
    if headers.get("sec-fetch-site") not in ("cross-site", "same-site"):
        return False
    navigates = (
        headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )
    return not (navigates and scope.get("method") == "GET")


def _same_origin(headers: Headers) -> bool:
    return "origin" in headers or headers.get("sec-fetch-site") == "same-origin"


def _shown_key(authorization: str) -> str | None:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:  # no base64, no ASCII, no UTF-8
        return None


def _cookies(headers: Headers) -> dict[str, str]:
    return cookie_parser("; ".join(headers.getlist("cookie")))


__all__ = ["CALLER", "HEALTH", "LOGIN", "SUBJECT", "Guard", "proof"]
