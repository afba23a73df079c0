"""Ledger against registry: does the alias `champion` lag, or did an operator move it (ADR 34).

A commit and its projection are two writes, so a process can die between them. Then the alias still
shows what it showed before the commit. So it does when an operator returns to the champion before,
the commonest move of all. Two records tell them apart. The commit notes the alias as it was
(`details["projected_from"]`). After the aliases have followed, the projector notes the number of
the promotion that they show: the *projection mark*. A mark older than the champion's entry: the
projection lags. A mark that has caught up: somebody moved the alias afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from infra.canonical import Json
from infra.identifiers import Digest
from tasks.promotion.ledger import REGISTRY, EntryKind, LedgerEntry, aliases, body, champion

_EPOCH = datetime.fromtimestamp(0, UTC)
ACTOR = REGISTRY
"""Who the ledger names when an operator moved the alias."""


class AliasState(StrEnum):
    """What was found."""

    IN_STEP = "in-step"  # the alias shows the champion
    LAGGING = "lagging"  # the ledger moved and the alias did not follow: project again
    # An operator moved the alias to a verified release: record it, then act on it.
    ADOPTED = "adopted"
    # An operator moved it to something unverified, or deleted it: record, put it back, report.
    UNDONE = "undone"
    # The registry is older than the ledger, or lacks what the ledger names: brought up to it.
    RESTORED = "restored"
    FAILED = "failed"  # it could not be looked at, or not be mended: what is served stays as it is


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether one registered version carries a release whose bytes and signature hold."""

    verified: bool
    reason: str = ""  # why not
    release: str | None = None  # its digest


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What to do, in this order: append `record`, set `aliases`, note `mark`."""

    outcome: AliasState
    reason: str  # one sentence, for the report
    record: Mapping[str, Json] | None  # the entry to append, fenced by the head that was read
    aliases: Mapping[str, str | None]  # what the registry must show afterwards; None: no such alias
    mark: int | None  # the projection mark to note; None: the number that the appended record gets
    notes: tuple[str, ...] = ()  # what else was mended, or waits for a person, a sentence each

    @property
    def failed(self) -> bool:
        """Whether something waits for a person."""
        return self.outcome is AliasState.FAILED

    @property
    def told(self) -> str:
        """The reason, and what else there is to say."""
        return " ".join((self.reason, *self.notes))


def not_reconciled(error: Exception) -> Reconciliation:
    """Return what is said of a model that could not be reconciled."""
    return Reconciliation(AliasState.FAILED, str(error) or repr(error), None, {}, 0)


def reconcile(
    entries: Sequence[LedgerEntry],
    observed: str | None,
    verified: Mapping[str, Verification],
    mark: int = 0,
    *,
    lost: str = "",
    late: Collection[str | None] = (),
) -> Reconciliation:
    """Compare the alias `champion` as observed with the ledger.

    Args:
        entries: The history.
        observed: What the alias shows; None when there is none.
        verified: An entry for every version that the caller could check; a version without one is
            unverified.
        mark: Number of the entry that the aliases were last known to show; 0: none was noted.
        lost: In which way the registry is older than the ledger, a sentence; empty: in none. What
            such a registry shows is nobody's act.
        late: Versions that a projection which was cut off may still set the alias to.
    """
    reigning = champion(entries)
    wanted = aliases(entries)
    number = reigning.number if reigning else 0
    if observed == wanted["champion"]:
        return Reconciliation(
            AliasState.IN_STEP, "The alias shows the champion.", None, wanted, number
        )
    if reigning and mark < reigning.number and observed == reigning.details.get("projected_from"):
        reason = (
            f"The alias still shows what it showed before ledger entry {number}: projected again."
        )
        return Reconciliation(AliasState.LAGGING, reason, None, wanted, number)
    if lost:
        return Reconciliation(
            AliasState.RESTORED, f"{lost}: projected again.", None, wanted, number
        )
    if observed in late:
        reason = f"A projection that was cut off set version {observed} late: projected again."
        return Reconciliation(AliasState.LAGGING, reason, None, wanted, number)
    check = verified.get(observed or "", Verification(False, "nobody could check it"))
    if check.verified and reigning and check.release == reigning.release is not None:
        check = Verification(False, "it is another copy of the champion")
    if observed is not None and check.verified:
        return _adopt(entries, observed, check)
    return _undo(entries, observed, check)


def _adopt(entries: Sequence[LedgerEntry], observed: str, check: Verification) -> Reconciliation:
    reigned = [
        entry
        for entry in entries
        if entry.kind in (EntryKind.PROMOTED, EntryKind.ROLLED_BACK)
        and (entry.version == observed or entry.release == check.release is not None)
    ]
    kind = EntryKind.ROLLED_BACK if reigned else EntryKind.PROMOTED
    release = check.release or (reigned[-1].release if reigned else None)
    reason = f"An operator moved the alias champion to version {observed} in the registry."
    details: dict[str, Json] = {
        "projected_from": observed
    }  # the alias shows the new champion already
    record = body(
        kind, actor=ACTOR, reason=reason, version=observed, release=release, details=details
    )
    after = aliases((*entries, _as_if_appended(entries, kind, observed, release)))
    return Reconciliation(AliasState.ADOPTED, reason, record, after, None)


def _as_if_appended(
    entries: Sequence[LedgerEntry], kind: EntryKind, version: str, release: str | None
) -> LedgerEntry:
    """Return an entry as it will stand: number, kind, version and release decide the aliases."""
    number, digest = entries[-1].number + 1 if entries else 1, Digest(release) if release else None
    return LedgerEntry(number, _EPOCH, kind, ACTOR, "", version, digest, {})


def _undo(
    entries: Sequence[LedgerEntry], observed: str | None, check: Verification
) -> Reconciliation:
    wanted, reigning = aliases(entries), champion(entries)
    moved = (
        f"moved to version {observed}, which is unverified ({check.reason})"
        if observed
        else "deleted"
    )
    now = f"it shows version {wanted['champion']} again" if wanted["champion"] else "it was removed"
    reason = f"The alias champion was {moved} in the registry; {now}."
    record = body(EntryKind.ALIAS_UNDONE, actor=ACTOR, reason=reason, version=observed)
    return Reconciliation(
        AliasState.UNDONE, reason, record, wanted, reigning.number if reigning else 0
    )
