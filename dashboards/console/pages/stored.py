"""What is handed out as it is stored: drift reports, and the newest figures for Prometheus."""

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, PlainTextResponse

from dashboards.console.rendering import PLOTLY
from flows.measures import LiveMeasures
from flows.queries import views
from flows.schedules import overdue
from infra.settings import settings
from infra.telemetry import CONTENT_TYPE, read_snapshots

REPORT_POLICY = (
    "sandbox{}; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:{}"
)
"""A report holds text from traffic: it gets an origin of its own, and reaches nothing.

Only Evidently's script may run.
"""
router = APIRouter(include_in_schema=False)
_live = LiveMeasures(overdue)


@router.get("/reports/{key:path}")
def report(key: str) -> Response:
    """Show a stored drift report, shut in; raise `NotFound`."""
    scripts = key.endswith("/evidently.html")
    policy = REPORT_POLICY.format(
        *((" allow-scripts", "; script-src 'unsafe-inline'") if scripts else ("", ""))
    )
    page = views.report_page(f"reports/{key}")
    return Response(
        page, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy}
    )


@router.get("/metrics")
def metrics() -> Response:
    """Return every model's newest figures for Prometheus, which shows the key as a bearer."""
    page = read_snapshots(settings().root / "metrics", _live.samples())
    return Response(page, headers={"Content-Type": CONTENT_TYPE})


@router.get(f"/assets/{PLOTLY.name}")
def plotly_script() -> Response:
    """Return the script that draws plots, as the installed package has it."""
    return FileResponse(PLOTLY, media_type="text/javascript")


@router.get("/favicon.ico")
def favicon() -> Response:
    """Answer with a short no: the page names an SVG, and some browsers ask anyway."""
    return PlainTextResponse("", status_code=404)
