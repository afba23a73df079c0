"""What an order would do, before it is given: re-quantizing, rolling back."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from dashboards.console.forms import new_form
from dashboards.console.rendering import show
from flows.queries.console import plan
from flows.queries.console.plan import Plan, RollbackPlan

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api", tags=["orders"])
Short = Annotated[str, Query(max_length=200)]
PageNumber = Annotated[int, Query(ge=1)]


@router.get("/models/{model}/requantize")
def requantize_page(
    request: Request,
    model: str,
    recipe: Short = "",
    window: Short = "",
    require_approval: bool = False,
    reason: Annotated[str, Query(max_length=500)] = "",
) -> Response:
    """Show what a re-quantization would do, and the form that orders it."""
    planned = plan.plan(model, recipe, window, require_approval=require_approval)
    return show(
        request,
        "requantize.html.j2",
        plan=planned,
        recipe=recipe,
        window=window,
        require_approval=require_approval,
        reason=reason,
        form=lambda action: new_form(request, action, model),
    )


@api.get("/models/{model}/plan")
def requantize_plan(
    model: str, recipe: Short = "", window: Short = "", require_approval: bool = False
) -> Plan:
    """Return what a re-quantization would do; 400 for an unknown recipe or window, 404."""
    return plan.plan(model, recipe, window, require_approval=require_approval)


@router.get("/models/{model}/rollback")
def rollback_page(request: Request, model: str, to: Short = "", page: PageNumber = 1) -> Response:
    """Show what a rollback would change, and the form that confirms it."""
    return show(
        request,
        "rollback.html.j2",
        plan=plan.rollback_plan(model, to, page),
        form=lambda action: new_form(request, action, model),
    )


@api.get("/models/{model}/rollback")
def rollback_targets(model: str, to: Short = "", page: PageNumber = 1) -> RollbackPlan:
    """Return earlier champions, and what bringing one back would change; 404."""
    return plan.rollback_plan(model, to, page)
