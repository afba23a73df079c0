"""Ledger and registry brought in step, and what killed processes left brought to its end."""

from __future__ import annotations

from dataclasses import replace

from tasks.promotion import entries, history, journal, projection
from tasks.promotion.acts.promoting import finish_approvals
from tasks.promotion.reconcile import ACTOR, Reconciliation


def reconcile(model: str) -> Reconciliation:
    """Compare the registry's alias with the ledger, record what was done, bring both in step.

    What killed processes left is ended first: claims on windows, approvals without promotion.
    """
    close_orphans(model)
    notes = finish_approvals(model)
    comparison = projection.record_comparison(model)
    projection.follow(model, comparison)
    return replace(comparison, notes=(*notes, *comparison.notes))


def close_orphans(model: str) -> None:
    """Close every claim on a window whose process is certainly gone."""
    while journal.commit(model, entries.any_orphan_closed, history.is_dead, ACTOR) is not None:
        pass
