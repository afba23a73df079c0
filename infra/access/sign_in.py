"""Pages below `/-/` of every port: signing in with a token, signing out."""

from __future__ import annotations

import asyncio
from html import escape

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from infra.access.accounts import AccessKind, event
from infra.access.attempts import Attempts
from infra.access.directory import Directory
from infra.access.problems import page
from infra.access.sessions import SESSION_S, Session, Sessions
from infra.access.tokens import id_of

SIGN_IN, SIGN_OUT = "/-/sign-in", "/-/sign-out"
WRONG = "No such token is valid: see that it is whole, and neither expired nor revoked."
SIGNED_OUT = "<p>You are signed out here and at every server of this workspace.</p>"
LOCKED = "Too many wrong tokens came from here: try again in {wait} s."


class TokenDoor:
    """Looks at tokens that are shown, and slows down who guesses."""

    def __init__(self, directory: Directory) -> None:
        self._directory, self._attempts = directory, Attempts()

    async def user_of(self, token: str, address: str) -> tuple[str, str] | int | None:
        """Return whose token it is and its id.

        None for a wrong one, after a delay; seconds to wait where too many were wrong.
        """
        token_id = id_of(token) or ""
        wait = self._attempts.wait_s(address, token_id)
        if wait and not self._directory.knows(token):
            return wait
        known = await asyncio.to_thread(self._directory.user_of, token)
        if known is not None:
            return known[0].name, known[1]
        delay, is_new = self._attempts.wrong(address, token_id, token)
        if is_new and self._attempts.wait_s(address, token_id):
            await asyncio.to_thread(self._note, address, token_id)
        await asyncio.sleep(delay)
        return None

    def _note(self, address: str, token_id: str) -> None:
        issued = self._directory.accounts().tokens.get(token_id)
        name = issued.user if issued else ""
        locked = event(AccessKind.LOCKED_OUT, "", name, address=address, token=token_id)
        self._directory.log.commit(lambda _: locked)


def sign_in_pages(sessions: Sessions, directory: Directory, door: TokenDoor) -> Starlette:
    """Return the application of the pages; the guard has checked host and origin before."""

    async def form(request: Request) -> Response:
        return sign_in_form()

    async def signed_in(request: Request) -> Response:
        posted = await request.form()
        token = str(posted.get("token", "")).strip()
        address = request.client.host if request.client else ""
        answer = await door.user_of(token, address)
        if isinstance(answer, int):
            return sign_in_form(LOCKED.format(wait=answer), 429)
        if answer is None:
            return sign_in_form(WRONG, 401)
        name, token_id = answer
        opened = sessions.opened(name, token_id)
        await asyncio.to_thread(note_sign_in, directory, opened)
        return with_session(RedirectResponse("/", 303), sessions, opened)

    async def signed_out(request: Request) -> Response:
        session = sessions.of_session(request.cookies.get(sessions.cookie))
        if session is not None:
            await asyncio.to_thread(_note_sign_out, directory, session)
        response = page("Signed out", SIGNED_OUT)
        response.delete_cookie(sessions.cookie, httponly=True, samesite="strict")
        return response

    return Starlette(
        routes=[
            Route(SIGN_IN, form, methods=["GET"]),
            Route(SIGN_IN, signed_in, methods=["POST"]),
            Route(SIGN_OUT, signed_out, methods=["POST"]),
        ]
    )


def sign_in_form(problem: str = "", status: int = 200) -> Response:
    """Return the page that asks for a token."""
    told = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    content = (
        f'{told}<form method="post" action="{SIGN_IN}">'
        '<label for="token">Your token, as <code>requant users token</code> printed it</label>'
        '<input id="token" name="token" type="password" required autocomplete="off" autofocus>'
        "<button>Sign in</button></form>"
    )
    return page("Sign in", content, status)


def note_sign_in(directory: Directory, session: Session) -> None:
    """Note in the access log who signed in, and by what."""
    noted = event(
        AccessKind.SIGNED_IN,
        session.subject,
        session.subject,
        session=session.session_id,
        by=session.by,
    )
    directory.log.commit(lambda accounts: noted if accounts.in_use else None)


def _note_sign_out(directory: Directory, session: Session) -> None:
    noted = event(
        AccessKind.SIGNED_OUT, session.subject, session.subject, session=session.session_id
    )
    directory.log.commit(lambda accounts: None if session.session_id in accounts.ended else noted)
    directory.changed()


def with_session(response: Response, sessions: Sessions, session: Session) -> Response:
    """Return a response that gives the browser its session."""
    response.headers["Cache-Control"] = "no-store"
    response.set_cookie(
        sessions.cookie,
        sessions.value(session),
        max_age=SESSION_S,
        httponly=True,
        samesite="strict",
    )
    return response
