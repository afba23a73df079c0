"""What every form carries: its one-time id, and why; who sends it is who logged in.

A form's id is signed for one purpose, so that no other site can post one (CSRF). It is the
idempotency key of the run that it starts, so that posting it twice starts one run.
"""

import hmac
import secrets
from typing import Annotated

from fastapi import Form, HTTPException, Request

from infra.access.guard import SUBJECT
from infra.access.secret import WorkspaceSecret

FormId = Annotated[str, Form(min_length=1, max_length=200)]
Reason = Annotated[str, Form(min_length=1, max_length=500, pattern=r"\S")]


def new_form(request: Request, action: str, model: str) -> str:
    """Return the hidden field of one form."""
    return form_id(request.app.state.secret, f"{action} {model}", secrets.token_urlsafe(12))


def form_key(request: Request, form: str, action: str, model: str) -> str:
    """Return the key of the run that the form starts.

    403 for a form that the console made for nothing of the kind.
    """
    once = form.partition(".")[0]
    expected = form_id(request.app.state.secret, f"{action} {model}", once)
    if not hmac.compare_digest(form.encode(), expected.encode()):
        raise HTTPException(
            403,
            "this form does not come from this console: open the model's page and send it again",
        )
    return f"console-{once}"


def form_id(secret: WorkspaceSecret, purpose: str, once: str) -> str:
    """Return the id of one form; `purpose` names the action and what it acts on."""
    return f"{once}.{secret.derived(f'form {once} {purpose}')}"


def subject(request: Request) -> str:
    """Return who is asking, as the guard found out."""
    return str(request.scope[SUBJECT])
