"""Reconciliation: follow what operators did in MLflow where it is verified, undo it where not."""

import contextlib
import logging

from flows.measures import write_measures
from flows.orchestration.orchestrated import leave_table, note, orchestrated
from infra.access.roles import Role
from infra.errors import RequantError
from infra.settings import settings
from tasks.promotion import steps as promotion_steps
from tasks.promotion.reconcile import Reconciliation, not_reconciled
from tasks.specs.registration import model_names


@orchestrated("reconcile", "reconcile", role=Role.OPERATOR)
def reconcile(model: str | None = None) -> dict[str, Reconciliation]:
    """Bring ledger and registry in step; one answer per model.

    Of all models, one's trouble stops no other: its answer says what it is.

    Args:
        model: Name of a registered model; empty takes all.
    """
    if model:
        answers = {model: _reconciled(model)}
    else:
        answers = {name: _attempted(name) for name in model_names(settings().store())}
    settings().store().sweep()
    rows = [
        {"model": name, "outcome": answer.outcome.value, "why": answer.told}
        for name, answer in answers.items()
    ]
    leave_table("reconciliation", rows)
    for name, answer in answers.items():
        note(f"{name}: {answer.outcome}; {answer.told}")
    return answers


def _reconciled(model: str) -> Reconciliation:
    try:
        answer = promotion_steps.reconcile_model(model)
    except Exception:
        with contextlib.suppress(RequantError):  # the ledger may be what cannot be read
            write_measures(model, verified=False)
        raise
    write_measures(model, verified=not answer.failed)
    return answer


def _attempted(model: str) -> Reconciliation:
    try:
        return _reconciled(model)
    except Exception as exc:  # whatever it is, the next model's turn comes
        logging.getLogger(__name__).warning("%s could not be reconciled: %s", model, exc)
        return not_reconciled(exc)
