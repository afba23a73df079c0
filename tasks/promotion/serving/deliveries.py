"""Deliveries in a ledger: a candidate on its way to all of the traffic. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from infra.canonical import Json
from infra.errors import Refused
from tasks.promotion import ledger
from tasks.promotion.ledger import EntryKind, LedgerEntry, body
from tasks.promotion.serving.incidents import ACTOR

if TYPE_CHECKING:  # brings numpy, and reading commands read deliveries
    from tasks.records import ReleaseRef

COMPLETED, ABORTED, SUPERSEDED = "completed", "aborted", "superseded"
"""How a delivery ends."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery, as far as it has come."""

    digest: str  # of the entry that began it
    version: str
    release: str  # digest of the bundle
    base: str  # version of the champion that it replaces
    shares: tuple[float, ...]  # of traffic, by step; 0: shadow
    step: int  # place in `shares`; one beyond them, it is champion and bakes
    since: datetime  # UTC, when the step began
    outcome: str | None = None  # None: it goes on
    reason: str = ""

    @property
    def baking(self) -> bool:
        """Return whether all traffic is the candidate's already."""
        return self.step >= len(self.shares)

    @property
    def share(self) -> float:
        """Return the share of traffic that the candidate answers."""
        return 1.0 if self.baking else self.shares[self.step]

    @property
    def stage(self) -> str:
        """Return the step in words."""
        if self.baking:
            return "baking"
        return f"canary of {self.share:.0%}" if self.share else "shadow"


def deliveries(entries: Sequence[LedgerEntry]) -> tuple[Delivery, ...]:
    """Return every delivery, oldest first."""
    by_start: dict[str, Delivery] = {}
    for entry in entries:
        if entry.kind is EntryKind.DELIVERY_STARTED:
            by_start[entry.digest] = _begun(entry)
        elif entry.kind in (EntryKind.DELIVERY_STEPPED, EntryKind.DELIVERY_ENDED):
            about = str(entry.details.get("delivery"))
            if about in by_start:
                by_start[about] = _after(by_start[about], entry)
    return tuple(by_start.values())


def open_delivery(entries: Sequence[LedgerEntry]) -> Delivery | None:
    """Return the delivery that goes on; None where none does."""
    newest = next(reversed(deliveries(entries)), None)
    return newest if newest is not None and newest.outcome is None else None


def started(
    entries: Sequence[LedgerEntry],
    release: ReleaseRef,
    base: str | None,
    shares: Sequence[float],
    actor: str,
    reason: str,
) -> Mapping[str, Json]:
    """Return that a candidate begins to take traffic over from the champion `base`.

    `shares` are those of traffic, step by step; 0 is shadow.

    Raises:
        Refused: No champion serves, another one than `base` does, or another delivery goes on.
    """
    under_way = open_delivery(entries)
    if under_way is not None:
        raise Refused(
            f"Version {under_way.version} is being delivered ({under_way.stage}): wait for its "
            "end, or stop it first."
        )
    if base is None:
        raise Refused("There is no champion to take traffic over from: promote a version first.")
    ledger.may_promote(entries, base)
    champion = ledger.champion(entries)
    if champion is not None and champion.release == release.digest:
        raise Refused(f"Version {release.version} is the champion already.")
    details: dict[str, Json] = {"base": base, "shares": list(shares)}
    return body(
        EntryKind.DELIVERY_STARTED,
        actor=actor,
        reason=reason,
        version=release.version,
        release=release.digest,
        details=details,
    )


def stepped(
    entries: Sequence[LedgerEntry], delivery: Delivery, measured: str
) -> Mapping[str, Json] | None:
    """Return that a delivery goes on to its next step; None where it is not where it was."""
    if not _stands(entries, delivery):
        return None
    details: dict[str, Json] = {
        "delivery": delivery.digest,
        "step": delivery.step + 1,
        "measured": measured,
    }
    reason = f"Version {delivery.version} passed its step ({delivery.stage})."
    return body(EntryKind.DELIVERY_STEPPED, actor=ACTOR, reason=reason, details=details)


def ended(
    entries: Sequence[LedgerEntry],
    delivery: Delivery,
    outcome: str,
    reason: str,
    actor: str = ACTOR,
) -> Mapping[str, Json] | None:
    """Return that a delivery is over; None where it was already."""
    if not _stands(entries, delivery):
        return None
    details: dict[str, Json] = {"delivery": delivery.digest, "outcome": outcome}
    return body(EntryKind.DELIVERY_ENDED, actor=actor, reason=reason, details=details)


def _stands(entries: Sequence[LedgerEntry], delivery: Delivery) -> bool:
    now = open_delivery(entries)
    return now is not None and (now.digest, now.step) == (delivery.digest, delivery.step)


def overtaken(entries: Sequence[LedgerEntry], delivery: Delivery) -> tuple[str, str] | None:
    """Return outcome and reason where others ended what a delivery is about; None: it may go on.

    A candidate that bakes and is champion no more was rolled back: it is not promoted again.
    """
    rejection = _rejection(entries, delivery)
    if rejection is not None and not delivery.baking:
        return ABORTED, f"{rejection.actor} rejected it: {rejection.reason}"
    champion = ledger.champion(entries)
    if champion is not None and delivery.baking:
        if champion.version == delivery.version:
            return None
        if champion.kind is EntryKind.ROLLED_BACK and champion.number > _number(entries, delivery):
            by_itself = champion.actor == ACTOR and champion.version == delivery.base
            outcome = ABORTED if by_itself else SUPERSEDED
            return outcome, f"{champion.actor} rolled it back: {champion.reason}"
    if champion is None or champion.version != delivery.base:
        return SUPERSEDED, "another version became champion meanwhile"
    return None


def _number(entries: Sequence[LedgerEntry], delivery: Delivery) -> int:
    """Return the number of the entry that began a delivery's step."""
    about = (entry for entry in reversed(entries) if _is_about(entry, delivery))
    return next((entry.number for entry in about), 0)


def _is_about(entry: LedgerEntry, delivery: Delivery) -> bool:
    return delivery.digest in (entry.digest, entry.details.get("delivery"))


def _rejection(entries: Sequence[LedgerEntry], delivery: Delivery) -> LedgerEntry | None:
    """Return a person's no to the candidate since its delivery began."""
    for entry in reversed(entries):
        if entry.digest == delivery.digest:
            return None
        if entry.kind is EntryKind.REJECTED and entry.version == delivery.version:
            return entry
    return None


def _begun(entry: LedgerEntry) -> Delivery:
    shares = entry.details.get("shares")
    return Delivery(
        entry.digest,
        str(entry.version),
        str(entry.release),
        str(entry.details.get("base")),
        tuple(float(str(share)) for share in shares) if isinstance(shares, list) else (0.0,),
        0,
        entry.time,
    )


def _after(delivery: Delivery, entry: LedgerEntry) -> Delivery:
    step, since, outcome = delivery.step, delivery.since, delivery.outcome
    if entry.kind is EntryKind.DELIVERY_ENDED:
        outcome = str(entry.details.get("outcome"))
    else:
        step, since = int(str(entry.details.get("step"))), entry.time
    return Delivery(
        delivery.digest,
        delivery.version,
        delivery.release,
        delivery.base,
        delivery.shares,
        step,
        since,
        outcome,
        entry.reason,
    )
