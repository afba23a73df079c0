"""A version begins to take traffic over from the champion, or is stopped, by a person's word."""

from __future__ import annotations

from dataclasses import dataclass

from flows.approval import require_known_people
from flows.orchestration.identity import authorized, noting_refusal
from infra.access.roles import Role
from infra.errors import NotFound, Refused
from tasks.promotion import journal, ledger, projection
from tasks.promotion.acts.restoring import servable
from tasks.promotion.entries import waiting
from tasks.promotion.history import reference
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.promotion.serving import deliveries
from tasks.publishing.served_by import why_not_served
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
        Refused: It neither waits nor was champion, another delivery goes on, or no gateway serves
            the model.
        NotFound: There is no such model.
        Tampered: A file of its bundle differs from its digest.
        NotAllowed: It waits, and who acts is no approver, or asked for it under four eyes.
    """
    spec, unserved = current_spec(model), why_not_served(model)
    if unserved is not None:
        raise Refused(unserved)
    entries = journal.read(model)
    actor = _deliverer(model, entries, version)
    release = servable(_fit(model, entries, version))
    champion = ledger.champion(entries)
    base = champion.version if champion else None
    journal.commit(model, deliveries.started, release, base, spec.delivery_shares, actor, reason)
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
    actor = authorized(Role.OPERATOR, model, f"stop the delivery of {model}")
    journal.commit(model, deliveries.ended, delivery, deliveries.ABORTED, reason, actor)
    return DeliveryView(model, delivery.version, "stopped")


def _deliverer(model: str, entries: tuple[LedgerEntry, ...], version: str) -> str:
    """Return who delivers: what waits is approved by being delivered, and wants an approver."""
    act = f"deliver version {version} of {model}"
    request = waiting(entries, version)
    if request is None:
        return authorized(Role.OPERATOR, model, act)
    actor = authorized(Role.APPROVER, model, f"{act}, which waits for approval")
    require_known_people(model, version)
    with noting_refusal(Role.APPROVER, model, act):
        ledger.require_other_eyes(request, actor)
    return actor


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
