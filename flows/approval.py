"""A person's answer to a candidate that waits."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.measures import write_measures
from infra.settings import settings
from tasks.promotion import steps as promotion


@flow(name="approval", flow_run_name="approval-{model}-{version}")
def approval(
    model: str,
    version: str,
    approve: bool,
    reason: str = "reviewed",
    actor: str | None = None,
) -> None:
    """Promote or reject a waiting candidate; the same answer twice acts once.

    Args:
        model: Name of a registered model, such as minilm.
        version: Version of the registry that waits for approval.
        approve: Promote it, or turn it down.
        reason: Why, in one sentence; written to the ledger.
        actor: Who answers; empty is the user of the process.
    """
    who = actor or settings().actor
    promotion.answer_approval(model, version, approve, who, reason)
    answer = "approved" if approve else "rejected"
    text = f"Version {version} of {model} was {answer} by {who}: {reason}"
    create_markdown_artifact(key=f"approval-{model}", markdown=text)
    write_measures(model)
