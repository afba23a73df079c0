"""What is installed, reachable, due and late."""

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from dashboards.console.permissions import caller
from dashboards.console.rendering import asked, show
from flows.commands.doctor import SetupCheck
from flows.queries.console.overview import NextRun, next_run
from flows.queries.runs import RunView
from flows.queries.workers import WorkerView
from infra.access.roles import EVERY, Role
from infra.settings import settings
from tasks.specs.registration import model_names

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api", tags=["health"])


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What `requant doctor` found, every model's schedule, who picks runs up, what is at work."""

    checks: list[SetupCheck]
    age_s: float  # of the checks
    problem: str | None  # why there are none
    schedules: dict[str, NextRun]
    note: str | None  # why schedules are not known
    models_problem: str | None  # why those are shown that Prefect knows, not all registered ones
    workers: list[WorkerView]
    workers_problem: str | None  # why there are none
    at_work: list[RunView]  # runs that have begun and not ended


@router.get("/health")
def health_page(request: Request) -> Response:
    """Show what is broken first, then what is absent, then what is fine."""
    report = health_report(request)
    return show(request, "health.html.j2", note=report.note, report=report)


@api.get("/health")
def health_report(request: Request) -> HealthReport:
    """Return what was examined within the last minute, and the schedules."""
    examined, scheduled = request.app.state.examined.answer(), request.app.state.upcoming.answer()
    order = ("broken", "absent", "fine")
    checks = sorted(examined.value or (), key=lambda check: order.index(check.state))
    who = caller(request)
    picking, recent = request.app.state.workers.answer(), request.app.state.runs.answer()
    registered, models_problem = asked(lambda: model_names(settings().store()))
    known = sorted(scheduled.value or ()) if registered is None else registered
    names = [name for name in known if who.may(Role.VIEWER, name)]
    return HealthReport(
        checks,
        examined.age_s,
        None if examined.value is not None else examined.problem,
        {name: next_run(name, scheduled.value) for name in names},
        scheduled.problem,
        models_problem,
        picking.value or [],
        picking.problem,
        [
            run
            for run in recent.value or ()
            if run.started and not run.finished and who.may(Role.VIEWER, run.model or EVERY)
        ],
    )
