"""What a person starts: the same deployments as the schedule, under a name and with a reason."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from dashboards.console.forms import FormId, Reason, form_key, subject
from dashboards.console.permissions import caller, require_run
from flows.deployments import cancel, trigger
from flows.queries import runs, views
from flows.queries.console import plan
from infra.access.roles import EVERY, Role
from tasks.quantization.recipe.catalog import find_recipe

router = APIRouter(include_in_schema=False)


@router.post("/models/{model}/requantize")
def requantize_now(
    request: Request,
    model: str,
    form_id: FormId,
    reason: Reason,
    recipe: Annotated[str, Form()] = "",
    require_approval: Annotated[bool, Form()] = False,
    window: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Build a candidate by one recipe, or climb the ladder."""
    wanted = find_recipe(recipe).name if recipe else None
    parameters = {"recipe": wanted, "reason": reason, "require_approval": require_approval}
    if window:
        plan.plan(model, recipe, window)  # raises where the model has no such window
        parameters["window"] = window
    return _start(request, "requantize", model, form_id, parameters)


@router.post("/models/{model}/maintain")
def maintain_now(request: Request, model: str, form_id: FormId) -> Response:
    """Look at the newest window now, and act if need be."""
    return _start(request, "maintenance", model, form_id, {}, deployment=model)


@router.post("/models/{model}/answer")
def answer(
    request: Request,
    model: str,
    form_id: FormId,
    reason: Reason,
    version: Annotated[str, Form(min_length=1, max_length=40)],
    verdict: Annotated[Literal["approve", "reject"], Form()],
) -> Response:
    """Approve or reject a candidate that waits."""
    parameters = {"version": version, "approve": verdict == "approve", "reason": reason}
    return _start(request, "approval", model, form_id, parameters)


@router.post("/models/{model}/rollback")
def roll_back(
    request: Request,
    model: str,
    form_id: FormId,
    reason: Reason,
    to: Annotated[str, Form(max_length=40)] = "",
) -> Response:
    """Let an earlier champion serve again."""
    return _start(request, "rollback", model, form_id, {"to": to or None, "reason": reason})


@router.post("/runs/{run_id}/cancel")
def cancel_run(request: Request, run_id: str, form_id: FormId) -> Response:
    """Stop a run; raise `NotFound` and `Unavailable`."""
    form_key(request, form_id, "cancel", run_id)
    if not caller(request).may(Role.OPERATOR, EVERY):
        require_run(request, Role.OPERATOR, runs.read_run(run_id).model)
    cancel(run_id, subject(request))
    return RedirectResponse(f"/runs/{run_id}", status_code=303)


def _start(
    request: Request,
    flow: str,
    model: str,
    form_id: str,
    parameters: Mapping[str, Any],
    deployment: str | None = None,
) -> Response:
    """Start the run and go to its page; raise `NotFound` for an unknown model, and as `trigger`."""
    key = form_key(request, form_id, flow, model)
    views.one_model(model)
    arguments = {"model": model, **parameters}
    run = trigger(flow, arguments, actor=subject(request), key=key, deployment=deployment)
    return RedirectResponse(f"/runs/{run.run_id}", status_code=303)
