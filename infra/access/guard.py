"""The guard of one port: nobody gets past it who is not this workspace's own.

A request is refused when it calls the server by another name (DNS rebinding), when a page of
another origin sent it (CSRF; every other port of this machine is another origin), or when it shows
neither the key nor a session.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from html import escape
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.access.secret import WorkspaceSecret
from infra.access.sessions import SESSION_S, Sessions

HEALTH = "/-/health"
"""Open to everybody; says nothing but who answers, and proves it to whoever knows the secret."""
LOGIN = "login"
"""The query parameter that carries a link's token."""
SUBJECT = "requant.subject"
"""Where the guarded application finds who is asking, in the ASGI scope."""
PROGRAM = "api-key"
"""Who asks when a program shows the key."""
NAMES = ("127.0.0.1", "localhost", "[::1]")
SAFE = ("GET", "HEAD", "OPTIONS")
FOREIGN_HOST = "This server answers to 127.0.0.1 and localhost only.\n"
FOREIGN_ORIGIN = "A page of another origin may not ask this server.\n"
LOG_IN = "Open the console by the link that `requant up` or `requant link` prints.\n"


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
    ) -> None:
        """Guard an application with a workspace's secret.

        `credentials` are headers that the application itself wants of whoever the guard admitted.
        With `own_handshake`, a websocket that no browser opened goes on to the application's own
        handshake.
        """
        self._app = app
        self._service = service
        self._secret = secret
        self._sessions = Sessions(secret)
        self._credentials = dict(credentials or {})
        self._own_handshake = own_handshake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer for the application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = self._answer(scope)
        if answer is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await answer(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        """Return the guard's own answer.

        None lets the request through, with its subject noted in the scope.
        """
        headers = Headers(scope=scope)
        if not _calls_us(headers, scope):
            return PlainTextResponse(FOREIGN_HOST, 421)
        if _is_foreign(headers, scope):
            return PlainTextResponse(FOREIGN_ORIGIN, 403)
        if scope["type"] == "http" and scope["path"] == HEALTH:
            return self._health(scope)
        logged_in = self._logged_in(scope, headers)
        if logged_in is not None:  # before an earlier session: whoever opens a link means this one
            return logged_in
        subject = self._subject(headers, scope)
        if subject is not None:
            self._note(scope, subject)
            return None
        if self._own_handshake and scope["type"] == "websocket" and "origin" not in headers:
            return None
        return PlainTextResponse(
            LOG_IN, 401, headers={"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"}
        )

    def _subject(self, headers: Headers, scope: Scope) -> str | None:
        key = _shown_key(headers.get("authorization", ""))
        if key is not None and hmac.compare_digest(key.encode(), self._secret.key.encode()):
            return PROGRAM
        if scope.get("method", "GET") not in SAFE and not _same_origin(headers):
            return None  # a session alone is not enough to change something: the page must be ours
        return self._sessions.of_session(_cookies(headers).get(self._sessions.cookie))

    def _note(self, scope: Scope, subject: str) -> None:
        scope[SUBJECT] = subject
        headers = MutableHeaders(scope=scope)
        for name, value in self._credentials.items():
            headers[name] = value

    def _health(self, scope: Scope) -> Response:
        nonce = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"))).get("nonce", "")
        port = (scope.get("server") or ("", 0))[1] or 0
        document = {
            "service": self._service,
            "proof": proof(self._secret, self._service, port, nonce),
        }
        return Response(json.dumps(document), media_type="application/json")

    def _logged_in(self, scope: Scope, headers: Headers) -> Response | None:
        """Exchange a link's token for a session, and forget it from the address."""
        if scope.get("method") != "GET":
            return None
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        subject = self._sessions.of_link(dict(query).get(LOGIN))
        if subject is None:
            return None
        rest = urlencode([(name, value) for name, value in query if name != LOGIN])
        path = "/" + str(scope["path"]).lstrip("/")  # two slashes would name another host
        response = _led_on(path + (f"?{rest}" if rest else ""), headers)
        response.headers["Cache-Control"] = "no-store"
        response.set_cookie(
            self._sessions.cookie,
            self._sessions.session(subject),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
        )
        return response


def proof(secret: WorkspaceSecret, service: str, port: int, nonce: str) -> str:
    """Return what only a holder of the secret can answer to a nonce, for one service at one port.

    With the port, a stranger at an old port of ours cannot pass on what the service answers at its
    present one.
    """
    key = secret.derived("health").encode()
    return hmac.new(key, f"{service} {port} {nonce}".encode(), hashlib.sha256).hexdigest()


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


def _led_on(target: str, headers: Headers) -> Response:
    """Lead from a link to where it opens.

    After a link in another site's page, a mail say, browsers keep strict cookies back through every
    redirect. A page of ours that goes on by itself is asked with them.
    """
    if headers.get("sec-fetch-site") != "cross-site":
        return RedirectResponse(target, 303)
    address = escape(quote(target, safe="/?=&%+"))
    return HTMLResponse(
        "<!doctype html><title>Requant</title>"
        f'<meta http-equiv="refresh" content="0;url={address}">'
    )


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


__all__ = ["HEALTH", "LOGIN", "PROGRAM", "SUBJECT", "Guard", "proof"]
