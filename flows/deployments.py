"""What can be triggered: deployments, served or in a work pool, and how to start one.

The scheduler, a person in Prefect's own form, and the console all start the very
same deployments.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import Flow
from prefect.schedules import Cron
from prefect.states import Cancelled, Cancelling
from prefect.types.entrypoint import EntrypointType

from flows.approval import approval
from flows.intake import intake
from flows.maintenance import maintenance
from flows.orchestration.orders import signed_order
from flows.reconcile import reconcile
from flows.requantize import requantize
from flows.rollback import rollback
from flows.schedules import TAG, as_prefect
from infra.errors import NotFound, Unavailable
from infra.settings import settings
from tasks.quantization.recipe.catalog import RECIPES
from tasks.specs.registration import current_spec, model_names
from tasks.specs.schedule import require_schedulable

RECONCILE_CRON = "*/5 * * * *"
ON_DEMAND: tuple[Flow[..., Any], ...] = (requantize, rollback, approval, intake)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Triggered:
    """A flow run that was asked for."""

    run_id: str
    name: str


def all_deployments() -> list[RunnerDeployment]:
    """Return those that take any model, and each model's maintenance by its spec's schedule."""
    models = model_names(settings().store())
    return [*shared_deployments(models), *filter(None, map(maintenance_deployment, models))]


def shared_deployments(models: Sequence[str]) -> list[RunnerDeployment]:
    """Return the deployments that take any of these models.

    Their forms offer what there is to choose.
    """
    every_five_minutes = Cron(RECONCILE_CRON, timezone="UTC", slug="reconcile")
    deployments = [_deployment(flow, flow.name, tags=[TAG]) for flow in ON_DEMAND]
    deployments.append(
        _deployment(reconcile, reconcile.name, tags=[TAG], schedules=[every_five_minutes])
    )
    for deployment in deployments:
        _offer(deployment, "model", models)
        _offer(deployment, "recipe", list(RECIPES))
    return deployments


def maintenance_deployment(model: str) -> RunnerDeployment | None:
    """Return one model's maintenance.

    It is None, with a line in the log, where the registration cannot be read or its schedule cannot
    be kept on this host: one model's bad state stops no other's schedule.
    """
    try:
        rule = current_spec(model).schedule
        require_schedulable(rule, where=f"the registered spec of {model}")
        schedule = as_prefect(rule)
        return _deployment(
            maintenance, model, tags=[TAG, model], schedules=[schedule], parameters={"model": model}
        )
    except Exception as error:  # whatever it is: a zone that this host lacks is a KeyError
        _log.error("%s is not scheduled: %s", model, error)
        return None


def trigger(
    flow: str,
    parameters: Mapping[str, Any],
    *,
    actor: str | None = None,
    key: str | None = None,
    deployment: str | None = None,
    past_crashes: bool = False,
) -> Triggered:
    """Start a deployment's run; the same `key` again returns the run it started before.

    Args:
        flow: Name of the flow, such as rollback.
        parameters: What the flow is called with.
        actor: Who authenticated and asked for it; signed, so that the run can show it.
        key: Idempotency key; left out, a fresh one.
        deployment: Name of the deployment; left out, the flow's own that takes any model.
        past_crashes: Whether a run that broke off counts as none, so that another starts.

    Raises:
        NotFound: It is not deployed.
        Unavailable: Prefect does not answer.
    """
    name, key = f"{flow}/{deployment or flow}", key or str(uuid4())
    context = {} if actor is None else signed_order(actor, flow, key, parameters)
    try:
        with get_client(sync_client=True) as client:
            applied = client.read_deployment_by_name(name)
            start = partial(
                client.create_flow_run_from_deployment,
                applied.id,
                parameters=dict(parameters),
                context=context,
                tags=[str(parameters["model"])] if "model" in parameters else [],
            )
            run = start(idempotency_key=key)
            while past_crashes and run.state is not None and run.state.is_crashed():
                key = f"{key}-again"
                run = start(idempotency_key=key)
    except ObjectNotFound as exc:
        raise NotFound(
            f"no deployment is called {name}: start `requant up`, or run `requant deploy`"
        ) from exc
    except (httpx.HTTPError, PrefectHTTPStatusError) as exc:
        raise Unavailable(
            f"Prefect did not start {name} ({exc}): see whether its server runs"
        ) from exc
    return Triggered(str(run.id), run.name)


def cancel(run_id: str, actor: str) -> None:
    """Ask for a run to be stopped; one that has ended stays as it is.

    Raises:
        NotFound: No run has the id.
        Unavailable: Prefect does not answer.
    """
    message = f"stopped by {actor}"
    try:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(UUID(run_id))
            if run.state is not None and run.state.is_final():
                return
            begun = run.state is not None and (run.state.is_running() or run.state.is_pending())
            state: State[None] = (Cancelling if begun else Cancelled)(message=message)
            client.set_flow_run_state(run.id, state)
    except (ObjectNotFound, ValueError) as exc:
        raise NotFound(f"no run has the id {run_id}: look at the list of runs") from exc
    except (httpx.HTTPError, PrefectHTTPStatusError) as exc:
        raise Unavailable(
            f"Prefect did not stop the run ({exc}): see whether its server runs"
        ) from exc


def _offer(deployment: RunnerDeployment, parameter: str, choices: Sequence[str]) -> None:
    """Let Prefect's form show a list instead of a text field, and refuse what is not in it."""
    field = deployment._parameter_openapi_schema.properties.get(parameter)
    if field is None or not choices:
        return
    for text in [kind for kind in field.get("anyOf", [field]) if kind.get("type") == "string"]:
        text["enum"] = list(choices)


def _deployment(flow: Flow[..., Any], name: str, **options: Any) -> RunnerDeployment:
    deployment: RunnerDeployment = flow.to_deployment(  # type: ignore[assignment]  # sync outside of an event loop
        name=name,
        entrypoint_type=EntrypointType.MODULE_PATH,
        description=_described(flow),
        **options,
    )
    return deployment


def _described(flow: Flow[..., Any]) -> str:
    """Return the first sentence of the flow's own docstring."""
    return str(flow.description or flow.__doc__ or "").strip().partition("\n")[0]
