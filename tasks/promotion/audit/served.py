"""What served at a moment, who approved it, and on which evidence: pure over a ledger's entries.

The order of the entries is their order in time: a clock that was set back moves nothing. An entry
counts from the latest time that any entry up to it was written at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

from infra.errors import NotFound
from tasks.promotion.ledger import EntryKind, LedgerEntry, as_registered

REIGNS = frozenset({EntryKind.PROMOTED, EntryKind.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class Served:
    """The champion of one moment, and the entries that made it so."""

    reign: LedgerEntry  # the promotion or rollback
    since: datetime  # UTC
    until: datetime | None  # UTC; None: it still serves
    followed: LedgerEntry | None  # the reign that ended it
    promoted: LedgerEntry | None  # of a rollback: the promotion of the same release before it
    approved: LedgerEntry | None  # the person's yes that the promotion rests on
    decided: LedgerEntry | None  # the decision about the traffic window that asked for it
    intended: LedgerEntry | None  # the run that built it


def served_at(entries: Sequence[LedgerEntry], moment: datetime) -> Served:
    """Return who served at a moment.

    Args:
        entries: The history, oldest first.
        moment: With its time zone.

    Raises:
        NotFound: Nothing served yet.
    """
    entries = as_registered(entries)
    times = list(accumulate((entry.time for entry in entries), max))
    reigns = [entry for entry in entries if entry.kind in REIGNS]
    begun = [entry for entry in reigns if times[entry.number - 1] <= moment]
    if not begun:
        first = (
            f"the first reigned from {times[reigns[0].number - 1].isoformat()}" if reigns else ""
        )
        raise NotFound(
            f"Nothing served at {moment.isoformat()}: {first or 'nothing was ever promoted'}."
        )
    reign = begun[-1]
    followed = next((entry for entry in reigns if entry.number > reign.number), None)
    promoted = _promotion_of(entries, reign)
    basis = promoted or reign
    intended = _run_before(entries, basis)
    return Served(
        reign,
        times[reign.number - 1],
        times[followed.number - 1] if followed else None,
        followed,
        promoted,
        _approval_of(entries, basis),
        _decision_of(entries, intended),
        intended,
    )


def _promotion_of(entries: Sequence[LedgerEntry], reign: LedgerEntry) -> LedgerEntry | None:
    """Return the newest promotion of the release that a rollback brought back."""
    if reign.kind is EntryKind.PROMOTED:
        return None
    earlier = (
        entry
        for entry in reversed(entries[: reign.number - 1])
        if entry.kind is EntryKind.PROMOTED and entry.release == reign.release
    )
    return next(earlier, None)


def _approval_of(entries: Sequence[LedgerEntry], reign: LedgerEntry) -> LedgerEntry | None:
    before = reversed(entries[: reign.number - 1])
    return next(
        (
            entry
            for entry in before
            if entry.kind is EntryKind.APPROVED and entry.version == reign.version
        ),
        None,
    )


def _run_before(entries: Sequence[LedgerEntry], reign: LedgerEntry) -> LedgerEntry | None:
    """Return the claim of the run that built a release: the last before it was first named."""
    named = next(entry for entry in entries if entry.release == reign.release)
    before = reversed(entries[: named.number - 1])
    return next((entry for entry in before if entry.kind is EntryKind.INTENDED), None)


def _decision_of(
    entries: Sequence[LedgerEntry], intended: LedgerEntry | None
) -> LedgerEntry | None:
    if intended is None:
        return None
    before = reversed(entries[: intended.number - 1])
    window = intended.details.get("window")
    return next(
        (
            entry
            for entry in before
            if entry.kind is EntryKind.DECIDED and entry.details.get("window") == window
        ),
        None,
    )
