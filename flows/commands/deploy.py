"""`requant deploy`: every deployment in a Prefect work pool, or the same as a `prefect.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import httpx
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError

from flows.deployments import all_deployments
from flows.schedules import drop_earlier_schedules, keep_what_people_set
from infra.errors import BadInput, Unavailable

POOL = "requant"
KIND = "process"


@dataclass(frozen=True, slots=True)
class Deployment:
    """What was brought to a server."""

    server: str  # the API's address
    pool: str
    deployments: tuple[str, ...]  # "flow/name"
    worker: str  # the command that runs them


def deploy(server: str, pool: str = POOL) -> Deployment:
    """Make the pool if need be, and bring every deployment there; doing it again changes nothing.

    Raises:
        BadInput: The pool is there and is not one of processes.
        Unavailable: The server does not answer.
    """
    try:
        _make_pool(pool)
        names = [_apply(deployment, pool) for deployment in all_deployments()]
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        raise Unavailable(
            f"Prefect at {server} did not take the deployments ({error}): see its log"
        ) from error
    return Deployment(
        server, pool, tuple(names), f"prefect worker start --pool {pool} --type {KIND}"
    )


def described(pool: str = POOL) -> str:
    """Return every deployment as the text of a `prefect.yaml`, for `prefect deploy --all`."""
    document = {
        "name": "requant",
        "deployments": [_description(deployment, pool) for deployment in all_deployments()],
    }
    return str(yaml.safe_dump(document, sort_keys=False, width=100))


def _make_pool(name: str) -> None:
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type=KIND))
        except ObjectAlreadyExists:
            kind = client.read_work_pool(name).type
            if kind != KIND:
                raise BadInput(
                    f"the work pool {name} is of type {kind}: choose another name with --pool, or "
                    "delete it"
                ) from None


def _apply(deployment: RunnerDeployment, pool: str) -> str:
    keep_what_people_set(deployment)
    applied = cast(UUID, deployment.apply(work_pool_name=pool))  # sync outside of an event loop
    drop_earlier_schedules(applied, deployment)
    return f"{deployment.flow_name}/{deployment.name}"


def _description(deployment: RunnerDeployment, pool: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": deployment.name,
        "entrypoint": deployment.entrypoint,
        "description": deployment.description,
        "tags": list(deployment.tags),
        "parameters": dict(deployment.parameters or {}),
        "schedules": [
            _schedule(schedule.schedule, schedule.slug) for schedule in deployment.schedules or ()
        ],
        "work_pool": {"name": pool},
    }
    return {name: value for name, value in facts.items() if value}


def _schedule(schedule: object, slug: str | None) -> dict[str, Any]:
    if isinstance(schedule, CronSchedule):
        return {"slug": slug, "cron": schedule.cron, "timezone": schedule.timezone}
    if isinstance(schedule, IntervalSchedule):
        return {
            "slug": slug,
            "interval": schedule.interval.total_seconds(),
            "timezone": schedule.timezone,
        }
    raise BadInput(f"the schedule {slug} is neither cron nor interval")
