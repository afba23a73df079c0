"""Templates, and what every page has: who is asking, the neighbours' addresses."""

from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import jinja2
from fastapi import Request, Response
from fastapi.templating import Jinja2Templates

from dashboards.console import present
from dashboards.console.permissions import caller
from flows.orchestration.services import neighbours
from infra.access.roles import EVERY, Role
from infra.canonical import sha256
from infra.errors import Unavailable
from infra.settings import settings
from tasks.records import STORED_DETECTORS

STATIC = Path(__file__).parent / "static"
PLOTLY = Path(str(files("plotly"))) / "package_data" / "plotly.min.js"
"""The script that draws plots; only pages with one load it."""
_FILTERS = (
    present.ago,
    present.figure,
    present.interval,
    present.percent,
    present.size,
    present.when,
)
_T = TypeVar("_T")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update({filter_.__name__: filter_ for filter_ in _FILTERS})
    environment.globals.update(
        {
            "picture": present.picture,
            "reference": present.reference,
            "sparkline": present.sparkline,
            "WIDTH": present.WIDTH,
            "SPARK_WIDTH": present.SPARK_WIDTH,
            "SPARK_HEIGHT": present.SPARK_HEIGHT,
            "stored_detectors": STORED_DETECTORS,
            "asset": _asset,
            "beside": _beside,
            "plotly": f"/assets/{PLOTLY.name}?{version('plotly')}",
        }
    )
    return environment


def _asset(name: str) -> str:
    """Return the address of one of our files, which changes when the file does."""
    return f"/static/{name}?{_DIGESTS[name]}"


def _beside(title: str, path: str = "/") -> str:
    """Return the way to a page of a neighbour, which may have to start for it."""
    return f"/beside/{quote(title)}?{urlencode({'path': path})}"


_DIGESTS = {path.name: sha256(path.read_bytes())[:12] for path in STATIC.iterdir()}
_templates = Jinja2Templates(env=_environment())


def show(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """Render a page; `actor` and the neighbours' addresses are known to every template."""
    context = {"note": None, **_known(request), **context}
    return _templates.TemplateResponse(request, template, context, status_code=status)


def rendered(request: Request, template: str, **context: Any) -> str:
    """Return a part of a page as text."""
    known = {"note": None, "request": request, **_known(request), **context}
    return str(_templates.get_template(template).render(known))


def _known(request: Request) -> dict[str, Any]:
    host = request.url.hostname or "127.0.0.1"
    who = caller(request)
    return {
        "actor": who.name,
        "roles": ", ".join(map(str, who.grants)),
        "may": lambda role, model: who.may(Role(role), model or EVERY),
        "neighbours": neighbours(settings(), host=host),
    }


def asked(ask: Callable[[], _T]) -> tuple[_T | None, str | None]:
    """Return the answer, or why there is none: what the ledger knows is shown without Prefect."""
    try:
        return ask(), None
    except Unavailable as exc:
        return None, str(exc)
