"""Rollback: an earlier champion serves again, verified first, with actor and reason in the ledger."""

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.measures import write_measures
from infra.settings import settings
from tasks.promotion import steps as promotion
from tasks.records import ReleaseRef


@flow(name="rollback", flow_run_name="rollback-{model}")
def rollback(
    model: str,
    reason: Annotated[str, Field(min_length=1)],
    to: str | None = None,
    actor: str | None = None,
) -> ReleaseRef:
    """Bring back an earlier champion.

    Args:
        model: Name of a registered model, such as minilm.
        reason: Why, in one sentence; written to the ledger.
        to: Version that was champion before; empty is the one the champion replaced.
        actor: Who asked; empty is the user of the process.
    """
    who = actor or settings().actor
    release = promotion.roll_back(model, to, who, reason)
    text = f"Version {release.version} of {model} is champion again, by {who}: {reason}"
    create_markdown_artifact(key=f"rollback-{model}", markdown=text)
    write_measures(model)
    return release
