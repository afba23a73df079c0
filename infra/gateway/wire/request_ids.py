"""One id for a request from end to end: in its answer, its trace, its traffic, and the log."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.errors import BadInput

HEADER = "X-Request-Id"
KEY = "requant.request-id"
"""Where an application finds the id, in the ASGI scope."""
MOST_CHARACTERS = 256
"""Of an id."""
_FIT = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def fit_id(given: str) -> str:
    """Return a caller's id, or a new one where it is none that fits."""
    return given if _FIT.fullmatch(given) else uuid.uuid4().hex


def id_of(given: object) -> str:
    """Return the id that a request gives itself; empty where it gives none.

    Raises:
        BadInput: It is no text, or a long one.
    """
    if given is None:
        return ""
    if not isinstance(given, str):
        raise BadInput(f"the id is a {type(given).__name__}: a text is wanted")
    if len(given) > MOST_CHARACTERS:
        raise BadInput(f"the id has {len(given)} characters: {MOST_CHARACTERS} are kept at most")
    return given


class RequestIds:
    """ASGI middleware: a caller's id is kept, and whoever sends none, or no fit one, gets one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its id, and the answer back with it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = fit_id(Headers(scope=scope).get(HEADER, ""))
        scope[KEY] = request_id

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, answer)
