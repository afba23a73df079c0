"""A person's answer to a candidate that waits."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.measures import write_measures
from infra.settings import settings
from tasks.promotion import steps as promotion


@flow(name="approval", flow_run_name="approval-{model}-{version}")
def approval(
    model: Annotated[str, Field(description="Name of a registered model, such as minilm")],
    version: Annotated[str, Field(description="Version of the registry that waits for approval")],
    approve: Annotated[bool, Field(description="Promote it, or turn it down")],
    reason: Annotated[str, Field(description="Why, in one sentence; written to the ledger")] = "reviewed",
    actor: Annotated[str | None, Field(description="Who answers; empty is the user of the process")] = None,
) -> None:
    """Promote or reject a waiting candidate; the same answer twice acts once."""
    promotion.answer_approval(model, version, approve, actor or settings().actor, reason)
    write_measures(model)
