"""Pages below `/-/` of every port: signing in with a token, signing out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from html import escape
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

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


def sign_in_pages(
    sessions: Sessions,
    directory: Directory,
    door: TokenDoor,
    form: Callable[..., Response],
    beside: Starlette | None = None,
) -> Starlette:
    """Return the application of the pages; the guard has checked host and origin before.

    `form` makes the page that asks for a token; `beside` has other ways to sign in.
    """

    async def asked(request: Request) -> Response:
        return form()

    async def signed_in(request: Request) -> Response:
        posted = await request.form()
        token = str(posted.get("token", "")).strip()
        address = request.client.host if request.client else ""
        answer = await door.user_of(token, address)
        if isinstance(answer, int):
            return form(LOCKED.format(wait=answer), 429)
        if answer is None:
            return form(WRONG, 401)
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
            Route(SIGN_IN, asked, methods=["GET"]),
            Route(SIGN_IN, signed_in, methods=["POST"]),
            Route(SIGN_OUT, signed_out, methods=["POST"]),
            *([] if beside is None else [Mount("/", beside)]),
        ]
    )


def sign_in_form(problem: str = "", status: int = 200, *, has_oidc: bool = False) -> Response:
    """Return the page that asks for a token, or leads to the OpenID Connect provider."""
    beside = '<p><a class="button" href="/-/oidc/sign-in">Sign in by your provider</a></p>'
    told = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    content = (
        f'{told}<form method="post" action="{SIGN_IN}">'
        '<label for="token">Your token, as <code>requant users token</code> printed it</label>'
        '<input id="token" name="token" type="password" required autocomplete="off" autofocus>'
        f"<button>Sign in</button></form>{beside if has_oidc else ''}"
    )
    return page("Sign in", content, status)


def led_on(target: str, headers: Mapping[str, str]) -> Response:
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
