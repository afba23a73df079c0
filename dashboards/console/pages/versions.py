"""One version beside the champion and full precision; any two versions side by side."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from dashboards.console.forms import new_form
from dashboards.console.pages.beside import beside
from dashboards.console.rendering import show
from flows.queries import versions
from flows.queries.console import candidate
from flows.queries.console.candidate import CandidateView, VersionComparison
from flows.queries.console.ledgers import ledgers
from flows.queries.console.overview import glance_of
from infra.settings import settings
from tasks.specs.registration import current_digest

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api", tags=["versions"])
Version = Annotated[str, Query(max_length=40)]


@router.get("/models/{model}/versions/{version}")
def version_page(request: Request, model: str, version: str) -> Response:
    """Show a version beside the champion and full precision, gate by gate."""
    view = versions.one_version(model, version)
    waiting = ledgers.value(model, glance_of).waiting
    return show(
        request,
        "version.html.j2",
        note=view.problem,
        view=view,
        made=candidate.candidate(model, version),
        waiting=[entry for entry in waiting if entry.version == version],
        form=lambda action: new_form(request, action, model),
    )


@router.get("/models/{model}/versions/{version}/mlflow")
def run_in_mlflow(request: Request, model: str, version: str) -> Response:
    """Lead to the run of MLflow that made a version; raise `NotFound` and `Unavailable`."""
    current_digest(model)
    return beside(request, "MLflow", settings().registry().run_path(model, version))


@api.get("/models/{model}/versions/{version}")
def version_candidate(model: str, version: str) -> CandidateView:
    """Return a version's gates beside the champion's, its making and its place; 404, 409."""
    return candidate.candidate(model, version)


@router.get("/models/{model}/compare")
def compare_page(request: Request, model: str, left: Version = "", right: Version = "") -> Response:
    """Show two versions side by side."""
    return show(request, "compare.html.j2", view=candidate.comparison(model, left, right))


@api.get("/models/{model}/compare")
def compare_versions(model: str, left: Version = "", right: Version = "") -> VersionComparison:
    """Return two versions side by side, gate by gate; 404, 409."""
    return candidate.comparison(model, left, right)
