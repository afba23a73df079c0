"""Questions to a model's ledger: who serves, what was decided, and what is left of it to do."""

from __future__ import annotations

from datetime import UTC, datetime

from infra.errors import NotFound
from infra.identifiers import ModelName
from infra.liveness.process import is_gone
from tasks.promotion import journal, ledger
from tasks.promotion.decisions import nothing_left, past_decisions, recorded
from tasks.promotion.entries import LEASE, last_request
from tasks.promotion.ledger import LedgerEntry
from tasks.records import Decision, PastDecision, ReleaseRef


def champion_of(model: str) -> ReleaseRef | None:
    """Return the ledger's champion; None before the first promotion."""
    return reference(model, ledger.champion(journal.read(model)))


def reference(model: str, entry: LedgerEntry | None) -> ReleaseRef | None:
    """Return the release that an entry is about; None where it names none."""
    if entry is None or entry.version is None or entry.release is None:
        return None
    return ReleaseRef(ModelName(model), entry.version, entry.release)


def of_request(model: str, request: str) -> LedgerEntry:
    """Return the entry that a request led to; raises `NotFound`."""
    entry = ledger.requested(journal.read(model), request)
    if entry is None:
        raise NotFound(f"No entry of {model} comes of the request {request}: make it again.")
    return entry


def is_dead(intent: LedgerEntry) -> bool:
    """Return whether the process of an intent is certainly gone."""
    return is_gone(intent.details.get("process"))


def approved_release(model: str, version: str) -> tuple[ReleaseRef, str | None] | None:
    """Return the release whose approval was asked for, and the champion it was judged against.

    None where nobody asked, or where it reigns already.
    """
    request, champion = last_request(journal.read(model), version), champion_of(model)
    release = reference(model, request)
    if request is None or release is None or (champion and champion.version == version):
        return None
    base = request.details.get("base")
    return release, None if base is None else str(base)


def decisions_before(model: str, window: str, source: str) -> tuple[PastDecision, ...]:
    """Return what was decided before this window and these weights were, oldest first."""
    entries = journal.read(model)
    entry = ledger.decided(entries, window, source)
    return past_decisions(entries, before=entry.number if entry else None)


def acted_on(model: str, window: str, source: str) -> bool:
    """Return whether a run still holds, or finished, the build that a decision asked for."""
    entries = journal.read(model)
    entry = ledger.decided(entries, window, source)
    if ledger.done_since(entries, window, entry.number if entry else 0):
        return True
    intent = ledger.open_intent(entries, window, datetime.now(UTC), LEASE)
    return intent is not None and not is_gone(intent.details.get("process"))


def settled(model: str, window: str, source: str, champion: ReleaseRef) -> Decision | None:
    """Return the decision about this window and these weights, once nothing of it is left to do."""
    entries = journal.read(model)
    entry = ledger.decided(entries, window, source)
    if entry is None:
        return None
    acted = acted_on(model, window, source)
    settled_now = nothing_left(entry, entries, champion=champion.version, acted=acted)
    return recorded(entry) if settled_now else None
