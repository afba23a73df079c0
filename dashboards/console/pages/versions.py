"""One version beside the champion and full precision, gate by gate."""

from fastapi import APIRouter, Request, Response

from dashboards.console.forms import new_form
from dashboards.console.rendering import show
from flows.queries import versions, views

router = APIRouter(include_in_schema=False)


@router.get("/models/{model}/versions/{version}")
def version_page(request: Request, model: str, version: str) -> Response:
    """Show a version beside the champion and full precision, gate by gate."""
    view = versions.one_version(model, version)
    waiting = [entry for entry in views.one_model(model).waiting if entry.version == version]
    return show(
        request,
        "version.html.j2",
        view=view,
        waiting=waiting,
        form=lambda action: new_form(request, action, model),
    )
