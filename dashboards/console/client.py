"""A client of the console's `/api`: what pages show, as the same values.

with ConsoleClient("http://127.0.0.1:8400", key) as console:
    for row in console.models(state="attention").models:
        print(row.name, row.health)
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from dashboards.console.pages.health import HealthReport
from dashboards.console.pages.models import ModelList, Order, State
from dashboards.console.pages.runs import RunList
from flows.queries.console.candidate import CandidateView, VersionComparison
from flows.queries.console.entries import EntryPage
from flows.queries.console.over_time import ModelOverTime
from flows.queries.console.overview import ModelRow
from flows.queries.console.plan import Plan, RollbackPlan
from flows.queries.console.tiers import ModelTiers
from flows.queries.console.watched import WatchedRun
from infra.errors import BadInput, NotAllowed, NotFound, RequantError, Tampered, Unavailable

PATIENCE_S = 30.0
_ERRORS: dict[int, type[RequantError]] = {
    400: BadInput,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Tampered,
    503: Unavailable,
}
_T = TypeVar("_T")


class ConsoleClient:
    """Reads a console; it orders nothing."""

    def __init__(self, address: str, key: str, *, http: httpx.Client | None = None) -> None:
        """Ask the console at `address`; show a token, or its workspace's key (`requant key`)."""
        self._http = http or httpx.Client(base_url=address, timeout=PATIENCE_S)
        self._headers = {"Authorization": f"Bearer {key}"}

    def __enter__(self) -> "ConsoleClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self, q: str = "", state: State = "", sort: Order = "name") -> ModelList:
        """Return the models whose name has `q` in it and that are in a state."""
        return self._get(ModelList, "/models", q=q, state=state, sort=sort)

    def model(self, model: str) -> ModelRow:
        """Return one model at a glance; raise `NotFound`."""
        return self._get(ModelRow, f"/models/{quote(model)}")

    def over_time(self, model: str, windows: int = 200) -> ModelOverTime:
        """Return a model's newest windows, and what happened since; raise `NotFound`."""
        return self._get(ModelOverTime, f"/models/{quote(model)}/over-time", windows=windows)

    def tiers(self, model: str) -> ModelTiers:
        """Return which tier answers how much of a model's traffic; raise `NotFound`."""
        return self._get(ModelTiers, f"/models/{quote(model)}/tiers")

    def version(self, model: str, version: str) -> CandidateView:
        """Return a version beside the champion; raise `NotFound` and `Tampered`."""
        return self._get(CandidateView, f"/models/{quote(model)}/versions/{quote(version)}")

    def compare(self, model: str, left: str = "", right: str = "") -> VersionComparison:
        """Return two versions side by side; raise `NotFound` and `Tampered`."""
        return self._get(
            VersionComparison, f"/models/{quote(model)}/compare", left=left, right=right
        )

    def plan(self, model: str, recipe: str = "", window: str = "") -> Plan:
        """Return what a re-quantization would do; raise `NotFound` and `BadInput`."""
        return self._get(Plan, f"/models/{quote(model)}/plan", recipe=recipe, window=window)

    def rollback_plan(self, model: str, to: str = "", page: int = 1) -> RollbackPlan:
        """Return earlier champions, and what bringing one back changes; raise `NotFound`."""
        return self._get(RollbackPlan, f"/models/{quote(model)}/rollback", to=to, page=page)

    def runs(self) -> RunList:
        """Return the newest runs."""
        return self._get(RunList, "/runs")

    def run(self, run_id: str, model: str = "") -> WatchedRun:
        """Return one run with its steps and log lines; raise `NotFound` and `Unavailable`.

        With its model, also one that the Prefect server in use does not have.
        """
        return self._get(WatchedRun, f"/runs/{quote(run_id)}", model=model)

    def audit(self, **wanted: str | int) -> EntryPage:
        """Return entries of the ledgers, by `model`, `kind`, `actor`, `version`, `text`, `at`.

        `page` counts from 1, and `size` is of a page. Raises `NotFound` and `BadInput`.
        """
        return self._get(EntryPage, "/audit", **wanted)

    def audit_pages(self, **wanted: str | int) -> Iterator[EntryPage]:
        """Yield page after page of `audit`."""
        number, pages = 1, 1
        while number <= pages:
            page = self.audit(**wanted, page=number)
            yield page
            number, pages = number + 1, page.pages

    def health(self) -> HealthReport:
        """Return what was examined, and the schedules."""
        return self._get(HealthReport, "/health")

    def _get(self, kind: type[_T], path: str, **parameters: str | int) -> _T:
        try:
            answer = self._http.get(f"/api{path}", params=parameters, headers=self._headers)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"the console did not answer ({error}): see whether it runs"
            ) from error
        if answer.status_code != httpx.codes.OK:
            sentence = answer.text
            with suppress(ValueError, KeyError, TypeError):
                sentence = answer.json()["detail"]
            raise _ERRORS.get(answer.status_code, RequantError)(sentence)
        return TypeAdapter(kind).validate_json(answer.content)
