"""Who a run acts for: what the ledger says beside its deeds is proved, never a parameter."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from flows.orchestration.orders import proven_actor
from infra.access.roles import Role
from infra.errors import NotAllowed
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
        return process_actor()
    return SCHEDULE if flow_run.auto_scheduled else proven_actor(flow, flow_run) or UNPROVEN


def authorized(role: Role, model: str, act: str) -> str:
    """Return who acts, once they may; what they may not is noted in the access log.

    Args:
        role: What the act needs.
        model: Of which model, or `EVERY`.
        act: What is about to be done, in words: "roll minilm back".

    Raises:
        NotAllowed: Who acts is not known, or lacks the role.
    """
    actor = acting()
    settings().directory().require(actor, role, model, act)
    return actor


@contextmanager
def noting_refusal(role: Role, model: str, act: str) -> Iterator[None]:
    """Note in the access log what an act itself refuses to who has the role for it."""
    try:
        yield
    except NotAllowed:
        settings().directory().note_refusal(acting(), role, model, act)
        raise


def process_actor() -> str:
    """Return for whom this process acts: a name that is given, or the owner of a token.

    Raises:
        NotAllowed: The store has users, and no token of one is shown.
    """
    directory, token = settings().directory(), settings().token
    if not directory.in_use:
        return settings().actor
    user = None if token is None else directory.user_of(token.get_secret_value())
    if user is None:
        raise NotAllowed(
            "this store has users: put a valid token of yours into REQUANT_TOKEN (an admin makes "
            "one by `requant users token NAME`)"
        )
    return user[0].name


def _found() -> str:
    if not in_flow_run():
        return process_actor()
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow is None or context.flow_run is None:
        return process_actor()
    return actor_of(context.flow.name, context.flow_run)
