"""When maintenance runs: what Prefect can schedule, what it has scheduled, and what is late.

Prefect alone computes dates. A second computation would differ from it around changes of the clock.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.schedules import Cron, Interval, Schedule
from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.states import Cancelled, Crashed
from pydantic import BaseModel

from infra.errors import Unavailable
from tasks.specs.spec import ScheduleSpec

K = TypeVar("K")
TAG = "requant"
"""Of every deployment of ours: a server may be shared with others."""
PAGE = 200
"""Deployments that one question to the server answers with."""
TAKEN_UP = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
"""States of a run that a process has taken up."""
GRACE = timedelta(seconds=90)
"""A run that starts later than this is overdue: its process alone takes seconds to start."""
PATIENCE = timedelta(minutes=2)
"""Prefect's scheduler looks once a minute; a deployment changed since may have no run yet."""
AT_MOST = 200
"""Runs that one question to the server answers with."""


@dataclass(frozen=True, slots=True)
class Upcoming:
    """One model's schedule as the server has it."""

    model: str
    next_run: (
        str | None
    )  # ISO 8601: when the next run that exists on the server is expected to start
    late: int  # runs that should have started and have not, `AT_MOST` at most
    overdue_s: float  # how long the oldest of them has waited; 0 when none is overdue
    paused: bool  # the deployment, or every schedule of it
    missing: str | None  # when a run was due that the server never created, ISO 8601


def as_prefect(rule: ScheduleSpec) -> Schedule:
    """Return a spec's schedule in Prefect's terms."""
    if rule.interval is not None:
        return Interval(timedelta(seconds=rule.interval), timezone=rule.timezone, slug=rule.slug)
    return Cron(str(rule.cron), timezone=rule.timezone, slug=rule.slug)


def upcoming() -> Mapping[str, Upcoming]:
    """Return every scheduled model's runs as the server has them; raises `Unavailable`."""
    try:
        with get_client(sync_client=True) as client:
            scheduled = [
                deployment
                for deployment in _ours(client)
                if deployment.schedules and deployment.parameters.get("model")
            ]
            return {runs.model: runs for runs in _upcoming(client, scheduled)}
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        raise Unavailable(
            f"Prefect did not tell its schedules ({error}): see whether its server runs"
        ) from error


def overdue() -> Mapping[str, float]:
    """Return the seconds for which each model's oldest run that should have started is overdue.

    It is 0 when none is.
    """
    return {model: runs.overdue_s for model, runs in upcoming().items()}


def drop_superseded() -> int:
    """Cancel late runs in whose place a later one of the same schedule waits; return how many.

    A machine that slept for a week wakes up to one run a model, not to seven.
    """
    dropped = 0
    with get_client(sync_client=True) as client:
        scheduled = [deployment for deployment in _ours(client) if deployment.schedules]
        waiting = _waiting(client, scheduled, before=datetime.now(UTC)) if scheduled else []
        for late in _grouped([run for run in waiting if run.auto_scheduled], _created_by).values():
            for run in late[:-1]:
                if not _still_waits(client, run):  # a runner was faster
                    continue
                state: State[None] = Cancelled(
                    message="a later run of the same schedule stands in for it"
                )
                client.set_flow_run_state(run.id, state)
                dropped += 1
    return dropped


def close_broken_off() -> int:
    """Call runs crashed that a process before this one took up and never ended; return how many.

    Only for a server of our own, before anything is taken up: a process that is killed cannot say
    so itself.
    """
    with get_client(sync_client=True) as client:
        deployed = [item.id for item in _ours(client) if item.work_pool_name is None]
        taken_up = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TAKEN_UP)))
        begun = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=deployed), state=taken_up
        )
        runs = client.read_flow_runs(flow_run_filter=begun) if deployed else []
        inside = FlowRunFilterParentFlowRunId(any_=[run.id for run in runs])
        if runs:
            runs += client.read_flow_runs(
                flow_run_filter=FlowRunFilter(parent_flow_run_id=inside, state=taken_up)
            )
        for run in runs:
            state: State[None] = Crashed(message="broken off: the process that ran it is gone")
            client.set_flow_run_state(run.id, state, force=True)
    return len(runs)


def keep_what_people_set(deployment: RunnerDeployment) -> None:
    """Take over, before a deployment is applied again, what a person paused or added in Prefect.

    A schedule without a slug was made there; Prefect would replace it.
    """
    with get_client(sync_client=True) as client:
        try:
            applied = client.read_deployment_by_name(deployment.full_name)
        except ObjectNotFound:
            return
    deployment.paused = applied.paused
    active = {schedule.slug: schedule.active for schedule in applied.schedules}
    for schedule in deployment.schedules or ():
        schedule.active = active.get(schedule.slug, schedule.active)
    added = [
        DeploymentScheduleCreate(
            schedule=schedule.schedule, active=schedule.active, parameters=schedule.parameters
        )
        for schedule in applied.schedules
        if not schedule.slug
    ]
    if added:
        deployment.schedules = [*(deployment.schedules or ()), *added]


def drop_earlier_schedules(applied: UUID, deployment: RunnerDeployment) -> None:
    """Remove the schedules that an earlier spec named.

    Prefect keeps what another slug stands for.
    """
    named = {schedule.slug for schedule in deployment.schedules or ()}
    with get_client(sync_client=True) as client:
        for schedule in client.read_deployment_schedules(applied):
            if schedule.slug and schedule.slug not in named:
                client.delete_deployment_schedule(applied, schedule.id)


def _ours(client: SyncPrefectClient) -> Iterator[DeploymentResponse]:
    """Yield every deployment of ours, page by page."""
    ours, offset = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])), 0
    while page := client.read_deployments(deployment_filter=ours, limit=PAGE, offset=offset):
        yield from page
        offset += len(page)


def _still_waits(client: SyncPrefectClient, run: FlowRun) -> bool:
    state = client.read_flow_run(run.id).state
    return state is not None and state.is_scheduled()


def _upcoming(
    client: SyncPrefectClient, scheduled: Sequence[DeploymentResponse]
) -> Iterator[Upcoming]:
    """Ask once for all deployments.

    It asks again only for those whose next run lies behind many runs of others.
    """
    now = datetime.now(UTC)
    late = _grouped(_waiting(client, scheduled, before=now), _deployed_as) if scheduled else {}
    ahead = _grouped(_waiting(client, scheduled, after=now), _deployed_as) if scheduled else {}
    for deployment in scheduled:
        coming = ahead.get(deployment.id) or _waiting(client, [deployment], after=now, limit=1)
        yield _of_model(client, deployment, late.get(deployment.id, []), coming, now)


def _of_model(
    client: SyncPrefectClient,
    deployment: DeploymentResponse,
    late: Sequence[FlowRun],
    ahead: Sequence[FlowRun],
    now: datetime,
) -> Upcoming:
    waited = max((now - _expected(run) for run in late), default=timedelta())
    paused = deployment.paused or not any(schedule.active for schedule in deployment.schedules)
    on_time = paused or any(run.auto_scheduled for run in (*ahead, *late))
    missing = None if on_time else _missed(client, deployment, now)
    if missing is not None:
        waited = now - missing
    return Upcoming(
        model=str(deployment.parameters["model"]),
        next_run=_expected(ahead[0]).isoformat() if ahead else None,
        late=len(late),
        overdue_s=waited.total_seconds() if waited > GRACE else 0.0,
        paused=paused,
        missing=None if missing is None else missing.isoformat(),
    )


def _created_by(run: FlowRun) -> tuple[UUID | None, UUID | None]:
    """Tell the schedule of a run: a person may have added one of their own to a deployment."""
    return run.deployment_id, run.created_by.id if run.created_by else None


def _deployed_as(run: FlowRun) -> UUID | None:
    return run.deployment_id


def _grouped(runs: Sequence[FlowRun], key: Callable[[FlowRun], K]) -> dict[K, list[FlowRun]]:
    """Group runs by a key, in their order."""
    grouped: dict[K, list[FlowRun]] = {}
    for run in runs:
        grouped.setdefault(key(run), []).append(run)
    return grouped


def _waiting(
    client: SyncPrefectClient,
    deployments: Sequence[DeploymentResponse],
    *,
    before: datetime | None = None,
    after: datetime | None = None,
    limit: int = AT_MOST,
) -> list[FlowRun]:
    """List runs of deployments that have not started, the earliest first."""
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(
                any_=[deployment.id for deployment in deployments]
            ),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=before, after_=after),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=limit,
    )


def _missed(
    client: SyncPrefectClient, deployment: DeploymentResponse, now: datetime
) -> datetime | None:
    """Return the first date that the scheduler should long have made a run for, and has not.

    Counted from the newest run there is, or from when the schedule last changed.
    """
    newest = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id])
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    missed = []
    for entry in deployment.schedules:
        changed = entry.updated or entry.created  # the deployment's own moves with every poll
        if entry.active and changed is not None and now - changed >= PATIENCE:
            since = max([changed, *(_expected(run) + timedelta(seconds=1) for run in newest)])
            missed += asyncio.run(_server_side(entry.schedule).get_dates(n=1, start=since))
    return min((date for date in missed if now - date >= GRACE), default=None)


def _server_side(schedule: BaseModel) -> CronSchedule | IntervalSchedule | RRuleSchedule:
    """Return the class that the server itself computes dates with.

    A person may have added a recurrence rule.
    """
    fields = schedule.model_dump()
    if "cron" in fields:
        return CronSchedule.model_validate(fields)
    return (
        RRuleSchedule.model_validate(fields)
        if "rrule" in fields
        else IntervalSchedule.model_validate(fields)
    )


def _expected(run: FlowRun) -> datetime:
    return run.expected_start_time or run.next_scheduled_start_time or datetime.now(UTC)
