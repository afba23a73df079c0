"""Reconciliation: follow what operators did in MLflow where it is verified, undo it where not."""

from flows.measures import write_measures
from flows.orchestration.orchestrated import leave_table, note, orchestrated
from infra.settings import settings
from tasks.promotion import steps as promotion_steps
from tasks.promotion.reconcile import Reconciliation
from tasks.specs.registration import model_names


@orchestrated("reconcile", "reconcile")
def reconcile(model: str | None = None) -> dict[str, Reconciliation]:
    """Bring ledger and registry in step; one answer per model.

    Args:
        model: Name of a registered model; empty takes all.
    """
    names = [model] if model else model_names(settings().store())
    answers = {name: promotion_steps.reconcile_model(name) for name in names}
    rows = [
        {"model": name, "outcome": answer.outcome.value, "why": answer.reason}
        for name, answer in answers.items()
    ]
    leave_table("reconciliation", rows)
    for name, answer in answers.items():
        note(f"{name}: {answer.outcome}; {answer.reason}")
        write_measures(name)
    return answers
