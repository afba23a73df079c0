"""A person's answer to a candidate that waits."""

from flows.measures import write_measures
from flows.orchestration.identity import acting
from flows.orchestration.orchestrated import leave_markdown, note, orchestrated
from infra.access.roles import Role
from tasks.promotion import steps as promotion_steps


@orchestrated("approval", "approval-{model}-{version}", role=Role.APPROVER)
def approval(model: str, version: str, approve: bool, reason: str = "reviewed") -> None:
    """Promote or reject a waiting candidate; the same answer twice acts once.

    Args:
        model: Name of a registered model, such as minilm.
        version: Version of the registry that waits for approval.
        approve: Promote it, or turn it down.
        reason: Why, in one sentence; written to the ledger.
    """
    promotion_steps.answer_approval(model, version, approve, acting(), reason)
    answer = "approved" if approve else "rejected"
    text = f"Version {version} of {model} was {answer} by {acting()}: {reason}"
    leave_markdown(f"approval-{model}", text)
    note(text)
    write_measures(model)
