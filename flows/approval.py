"""A person's answer to a candidate that waits."""

from flows.measures import write_measures
from flows.orchestration.identity import acting, noting_refusal
from flows.orchestration.orchestrated import leave_markdown, note, orchestrated
from infra.access.roles import Role
from infra.errors import Refused
from infra.settings import settings
from tasks.promotion import journal, ledger
from tasks.promotion import steps as promotion_steps
from tasks.promotion.entries import waiting


def require_known_people(model: str, version: str) -> None:
    """Refuse four eyes where names are what people say.

    Raises:
        Refused: The store has no users, and somebody else than who asked has to approve.
    """
    request = waiting(journal.read(model), version)
    if request is None or not ledger.wants_other_eyes(request) or settings().directory().in_use:
        return
    raise Refused(
        f"version {version} of {model} wants four eyes, and this store knows nobody by a token: "
        "add users (`requant users add`), or set the spec's approval to manual"
    )


@orchestrated("approval", "approval-{model}-{version}", role=Role.APPROVER)
def approval(model: str, version: str, approve: bool, reason: str = "reviewed") -> None:
    """Promote or reject a waiting candidate; the same answer twice acts once.

    Args:
        model: Name of a registered model, such as minilm.
        version: Version of the registry that waits for approval.
        approve: Promote it, or turn it down.
        reason: Why, in one sentence; written to the ledger.
    """
    if approve:
        require_known_people(model, version)
    with noting_refusal(Role.APPROVER, model, f"approve version {version} of {model}"):
        promotion_steps.answer_approval(model, version, approve, acting(), reason)
    answer = "approved" if approve else "rejected"
    text = f"Version {version} of {model} was {answer} by {acting()}: {reason}"
    leave_markdown(f"approval-{model}", text)
    note(text)
    write_measures(model)
