"""The way to what runs beside the console: at once, or by a page that waits while it starts."""

from typing import Annotated

import httpx
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from dashboards.console.rendering import show
from flows.orchestration.services import neighbours
from infra.errors import BadInput, NotFound, Unavailable
from infra.settings import settings

AT_ONCE_S = 0.3
"""Who answers within that is up."""
router = APIRouter(include_in_schema=False)


@router.get("/beside/{title}")
def beside(
    request: Request, title: str, path: Annotated[str, Query(max_length=1000)] = "/"
) -> Response:
    """Lead to a page of Prefect, MLflow or Evidently, the last two of which start when visited.

    Raises `NotFound`, `BadInput` and `Unavailable`.
    """
    known = neighbours(settings(), host=request.url.hostname or "127.0.0.1")
    if title not in known:
        raise NotFound(f"no {title} runs beside this console: `requant up` starts it")
    if not path.startswith("/"):
        raise BadInput(f"{path!r} is no path of {title}: begin it with /")
    target = f"{known[title]}{path}"
    if _answers(title, known[title]):
        return RedirectResponse(target)
    return show(request, "starting.html.j2", title=title, target=target)


def _answers(title: str, address: str) -> bool:
    """Return whether a neighbour answers at once; asking wakes one that sleeps.

    Raises `Unavailable` where nobody listens.
    """
    try:
        httpx.get(address, timeout=AT_ONCE_S)
    except httpx.TimeoutException:
        return False
    except httpx.HTTPError as error:
        raise Unavailable(
            f"{title} does not answer at {address} ({error}): see whether `requant up` runs"
        ) from error
    return True
