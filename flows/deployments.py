"""What can be triggered: the deployments that `requant up` serves and `prefect.yaml` describes, and how to start one.

The scheduler, a person in Prefect's own form, and the console all start the very same deployments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import Flow
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.approval import approval
from flows.maintenance import maintenance
from flows.reconcile import reconcile
from flows.requantize import requantize
from flows.rollback import rollback
from infra.errors import NotFound, Unavailable
from infra.settings import settings, use_workspace
from tasks.models.registration import current_spec, model_names

SHARED = "requant"
"""Name of the deployments that take any model."""
RECONCILE_CRON = "*/5 * * * *"
LIMIT = 2
"""Flow runs at once: each fills a core."""
ON_DEMAND: tuple[Flow[..., Any], ...] = (requantize, rollback, approval)


@dataclass(frozen=True, slots=True)
class Triggered:
    """A flow run that was asked for."""

    run_id: str
    name: str


def serve_all() -> None:
    """Serve every deployment until stopped; one maintenance schedule per registered model."""
    serve(*all_deployments(), limit=LIMIT)


def all_deployments() -> list[RunnerDeployment]:
    """The shared ones, and maintenance of every registered model by its spec's schedule."""
    found = [_deployment(one, SHARED) for one in ON_DEMAND]
    found.append(_deployment(reconcile, SHARED, schedules=[Cron(RECONCILE_CRON, timezone="UTC", slug="reconcile")]))
    for name in model_names(settings().store()):
        rule = current_spec(name).schedule
        schedule = Cron(rule.cron, timezone=rule.timezone, slug=rule.slug)
        found.append(_deployment(maintenance, name, schedules=[schedule], parameters={"model": name}))
    return found


def trigger(flow: str, parameters: Mapping[str, Any], *, key: str | None = None, deployment: str = SHARED) -> Triggered:
    """Start a deployment's run; the same `key` again returns the run it started before.

    Raises `NotFound` when it is not served and `Unavailable` when Prefect does not answer.
    """
    name = f"{flow}/{deployment}"
    try:
        with get_client(sync_client=True) as client:
            known = client.read_deployment_by_name(name)
            run = client.create_flow_run_from_deployment(known.id, parameters=dict(parameters), idempotency_key=key)
    except ObjectNotFound as exc:
        raise NotFound(f"no deployment is called {name}: start `requant up`, which serves it") from exc
    except (httpx.HTTPError, PrefectHTTPStatusError) as exc:
        raise Unavailable(f"Prefect did not start {name} ({exc}): see whether its server runs") from exc
    return Triggered(str(run.id), run.name)


def next_runs() -> dict[str, str]:
    """Model -> when its schedule fires next, ISO 8601; a model that is not served has none."""
    try:
        with get_client(sync_client=True) as client:
            found = client.read_deployments()
    except (httpx.HTTPError, PrefectHTTPStatusError) as exc:
        raise Unavailable(f"Prefect did not list its deployments ({exc}): see whether its server runs") from exc
    times = {}
    for one in found:
        for entry in one.schedules:
            if entry.active and isinstance(entry.schedule, CronSchedule) and one.parameters.get("model"):
                times[str(one.parameters["model"])] = _next(entry.schedule)
    return times


def _next(schedule: CronSchedule) -> str:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from croniter import croniter

    now = datetime.now(ZoneInfo(schedule.timezone or "UTC"))
    return str(croniter(schedule.cron, now).get_next(datetime).isoformat())


def _deployment(flow: Flow[..., Any], name: str, **options: Any) -> RunnerDeployment:
    made: RunnerDeployment = flow.to_deployment(  # type: ignore[assignment]  # sync outside of an event loop
        name=name, entrypoint_type=EntrypointType.MODULE_PATH, **options
    )
    return made


if __name__ == "__main__":
    use_workspace(None)
    serve_all()
