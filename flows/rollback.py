"""Rollback: an earlier champion serves again, verified first; actor and reason in the ledger."""

from typing import Annotated

from pydantic import Field

from flows.measures import write_measures
from flows.orchestration.identity import acting
from flows.orchestration.orchestrated import leave_markdown, note, orchestrated, run_id
from infra.access.roles import Role
from tasks.promotion import steps as promotion_steps
from tasks.records import ReleaseRef


@orchestrated("rollback", "rollback-{model}", role=Role.OPERATOR)
def rollback(
    model: str,
    reason: Annotated[str, Field(min_length=1)],
    to: str | None = None,
    request: str = "",
) -> ReleaseRef:
    """Bring back an earlier champion.

    Args:
        model: Name of a registered model, such as minilm.
        reason: Why, in one sentence; written to the ledger.
        to: Version that was champion before; empty is the one the champion replaced.
        request: Names the act, so that a repeated one is done once; empty is this run.
    """
    release = promotion_steps.roll_back(model, to, acting(), reason, request or run_id())
    text = f"Version {release.version} of {model} is champion again, by {acting()}: {reason}"
    leave_markdown(f"rollback-{model}", text)
    note(text)
    write_measures(model)
    return release
