"""Ledger and registry brought in step, and what killed processes left brought to its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from infra.settings import settings
from tasks.promotion import entries, history, journal, projection
from tasks.promotion.acts.promoting import finish_approvals
from tasks.promotion.acts.restoring import Mended, mend
from tasks.promotion.reconcile import ACTOR, AliasState, Reconciliation
from tasks.promotion.registered import marks
from tasks.promotion.registered.condition import known_digests


def reconcile(model: str) -> Reconciliation:
    """Compare the registry's alias with the ledger, record what was done, bring both in step.

    What the aliases lead to is verified, in the store and in the registry. What killed processes
    left is ended: claims on windows, approvals without promotion, runs, announcements.
    """
    close_orphans(model)
    notes, digests = (*finish_approvals(model), *_strays(model)), known_digests(model)
    comparison = projection.record_comparison(model)
    mended = mend(model, digests)
    projection.show(model)
    digests.save()
    settings().registry().sweep(model)
    marks.clear(model)
    return _with(comparison, mended, notes)


def _with(comparison: Reconciliation, mended: Mended, notes: Sequence[str]) -> Reconciliation:
    """Return the comparison with what else was mended, or could not be."""
    outcome = comparison.outcome
    if mended.broken:
        outcome = AliasState.FAILED
    elif "champion" in mended.restored:
        outcome = AliasState.RESTORED
    told = (*notes, *comparison.notes, *mended.sentences)
    return replace(comparison, outcome=outcome, notes=told)


def _strays(model: str) -> tuple[str, ...]:
    return tuple(
        f"{key} lies in the ledger's folder and is no entry of it: ignored; find out who put it "
        "there."
        for key in journal.strays(model)
    )


def close_orphans(model: str) -> None:
    """Close every claim on a window whose process is certainly gone."""
    while journal.commit(model, entries.any_orphan_closed, history.is_dead, ACTOR) is not None:
        pass
