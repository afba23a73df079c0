"""A version begins to take traffic over from the champion, or is stopped, by a person's word."""

from __future__ import annotations

from dataclasses import dataclass

from infra.errors import NotFound, Refused
from infra.settings import settings
from tasks.promotion import journal, ledger, projection
from tasks.promotion.acts.restoring import servable
from tasks.promotion.history import reference
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.promotion.serving import deliveries
from tasks.records import ReleaseRef
from tasks.specs.registration import current_spec


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery at a glance."""

    model: str
    version: str
    stage: str


def deliver(model: str, version: str, reason: str) -> DeliveryView:
    """Let a version that waits for approval, or was champion before, take traffic over.

    Raises:
        Refused: It neither waits nor was champion, or another delivery goes on.
        NotFound: There is no such model.
        Tampered: A file of its bundle differs from its digest.
    """
    shares = current_spec(model).delivery_shares
    entries = journal.read(model)
    release = servable(_fit(model, entries, version))
    champion = ledger.champion(entries)
    base = champion.version if champion else None
    actor = settings().actor
    journal.commit(model, deliveries.started, release, base, shares, actor, reason)
    projection.label_or_warn(model)
    return DeliveryView(model, version, "begun")


def stop(model: str, reason: str) -> DeliveryView:
    """Stop the delivery that goes on; the gateway takes the candidate's traffic back.

    Raises:
        NotFound: None goes on.
        Refused: All traffic is the candidate's already.
    """
    current_spec(model)
    delivery = deliveries.open_delivery(journal.read(model))
    if delivery is None:
        raise NotFound(f"nothing of {model} is being delivered")
    if delivery.baking:
        raise Refused(
            f"version {delivery.version} of {model} is champion already: roll back instead"
        )
    actor = settings().actor
    journal.commit(model, deliveries.ended, delivery, deliveries.ABORTED, reason, actor)
    return DeliveryView(model, delivery.version, "stopped")


def _fit(model: str, entries: tuple[LedgerEntry, ...], version: str) -> ReleaseRef:
    """Return a version whose gates passed: it waits for approval, or was champion once."""
    passed = (EntryKind.APPROVAL_REQUESTED, EntryKind.PROMOTED, EntryKind.ROLLED_BACK)
    named = (
        entry
        for entry in reversed(ledger.as_registered(entries))
        if entry.version == version and entry.kind in passed
    )
    release = reference(model, next(named, None))
    if release is None:
        raise Refused(
            f"version {version} of {model} neither waits for approval nor was champion: name one "
            "whose gates passed"
        )
    return release
