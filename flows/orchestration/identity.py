"""Who a run acts for: what the ledger says beside its deeds is proved, never a parameter."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from flows.orchestration.orders import proven_actor
from infra.settings import settings
from tasks.step import in_flow_run

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

SCHEDULE = "schedule"
"""Acts where a deployment's schedule created the run."""
UNPROVEN = "prefect"
"""Acts where somebody started a deployment's run and nothing proves who."""

_acting: ContextVar[str | None] = ContextVar("acting", default=None)


def acting() -> str:
    """Return who the run at hand acts for.

    The outermost flow decides, and the flows that it calls inherit it.
    """
    return _acting.get() or _found()


@contextmanager
def one_actor() -> Iterator[None]:
    """Settle who acts for the length of the outermost block."""
    token = _acting.set(acting())
    try:
        yield
    finally:
        _acting.reset(token)


def actor_of(flow: str, flow_run: "FlowRun") -> str:
    """Return who a run acts for.

    A deployment's run acts for its schedule or for who started it, any other for the user of this
    process.
    """
    if flow_run.deployment_id is None:
        return settings().actor
    return SCHEDULE if flow_run.auto_scheduled else proven_actor(flow, flow_run) or UNPROVEN


def _found() -> str:
    if not in_flow_run():
        return settings().actor
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow is None or context.flow_run is None:
        return settings().actor
    return actor_of(context.flow.name, context.flow_run)
