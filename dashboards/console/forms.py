"""What every form carries: its one-time id, who sends it, and why."""

from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import Form, HTTPException, Request, Response

from dashboards.console.access import Access
from infra.settings import settings

ACTOR_COOKIE = "requant_actor"
A_YEAR = 365 * 24 * 3600

FormId = Annotated[str, Form(min_length=1, max_length=200)]
Actor = Annotated[str, Form(min_length=1, max_length=80, pattern=r"\S")]
Reason = Annotated[str, Form(min_length=1, max_length=500, pattern=r"\S")]


def new_form(request: Request, action: str, model: str) -> str:
    """The hidden field of one form."""
    access: Access = request.app.state.access
    return access.form_id(f"{action} {model}")


def form_key(request: Request, form_id: str, action: str, model: str) -> str:
    """The key of the run that the form starts; 403 for a form that is not ours, for this action on this model."""
    access: Access = request.app.state.access
    if not access.made_form(form_id, f"{action} {model}"):
        raise HTTPException(403, "this form does not come from this console: open the model's page and send it again")
    return f"console-{form_id.partition('.')[0]}"


def remembered_actor(request: Request) -> str:
    """The name that was given last; at first, the user of the process."""
    return unquote(request.cookies.get(ACTOR_COOKIE, "")) or settings().actor


def remember_actor(response: Response, actor: str) -> None:
    """Fill the name in next time."""
    response.set_cookie(ACTOR_COOKIE, quote(actor), max_age=A_YEAR, httponly=True, samesite="strict")
