"""Which bundles must be kept, and why: pure over a ledger's entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from infra.canonical import Json
from infra.errors import NotFound, Refused
from infra.identifiers import Digest
from tasks.promotion import ledger
from tasks.promotion.ledger import EntryKind, LedgerEntry, body

RELEASES = "releases"
"""The detail that lists the releases whose bundles were removed."""
REMOVING = timedelta(minutes=10)
"""How long what a collection lists counts as being removed: it removes for half of that."""
_REIGNS = (EntryKind.PROMOTED, EntryKind.ROLLED_BACK)


@dataclass(frozen=True, slots=True)
class Policy:
    """How much is kept beyond what must be."""

    depth: int  # champions before the present one, by release, that a rollback may return to
    age: timedelta  # what was last named in the ledger since then stays


def kept(entries: Sequence[LedgerEntry], policy: Policy, now: datetime) -> Mapping[Digest, str]:
    """Return the releases whose bundles stay, each with the reason."""
    reasons: dict[Digest, str] = {}
    for entry in entries:
        if entry.release is not None and entry.time > now - policy.age:
            reasons[entry.release] = f"the ledger named it on {entry.time:%Y-%m-%d}"
    champions = list(
        dict.fromkeys(
            entry.release for entry in reversed(entries) if entry.kind in _REIGNS and entry.release
        )
    )
    for place, release in enumerate(champions[: policy.depth + 1]):
        reasons[release] = "it serves" if place == 0 else f"a rollback may return to it ({place})"
    previous = ledger.previous(entries)
    if previous is not None and previous.release is not None:
        reasons[previous.release] = "it served before"
    for entry in (*ledger.pending_approvals(entries), *ledger.cut_off_approvals(entries)):
        if entry.release is not None:
            reasons[entry.release] = "its approval waits"
    for release, entry in holds(entries).items():
        reasons[release] = f"{entry.actor} holds it: {entry.reason}"
    return reasons


def holds(entries: Sequence[LedgerEntry]) -> Mapping[Digest, LedgerEntry]:
    """Return the releases under a legal hold, each with the newest entry that placed it."""
    held: dict[Digest, LedgerEntry] = {}
    for entry in entries:
        if entry.kind is EntryKind.HOLD_PLACED and entry.release is not None:
            held[entry.release] = entry
        elif entry.kind is EntryKind.HOLD_LIFTED and entry.release is not None:
            held.pop(entry.release, None)
    return held


def collected(entries: Sequence[LedgerEntry]) -> Mapping[Digest, LedgerEntry]:
    """Return the releases whose bundles were removed, and that were not named again since."""
    gone: dict[Digest, LedgerEntry] = {}
    for entry in entries:
        if entry.kind is EntryKind.COLLECTED:
            gone.update(dict.fromkeys(listed(entry), entry))
        elif entry.release is not None:
            gone.pop(entry.release, None)
    return gone


def listed(entry: LedgerEntry) -> tuple[Digest, ...]:
    """Return the releases whose bundles a collection's entry says are removed."""
    named = entry.details.get(RELEASES)
    return tuple(Digest(str(name)) for name in named) if isinstance(named, (list, tuple)) else ()


def last_collection(entries: Sequence[LedgerEntry], release: str) -> LedgerEntry | None:
    """Return the newest collection that lists a release, whatever was written of it since."""
    for entry in reversed(entries):
        if entry.kind is EntryKind.COLLECTED and release in listed(entry):
            return entry
    return None


def require_settled(collection: LedgerEntry, release: str, now: datetime) -> None:
    """Pass when a collection no longer removes what it lists; raises `Refused`.

    A bundle that is written again meanwhile may lose files to it.
    """
    end = collection.time + REMOVING
    if now < end:
        raise Refused(
            f"The bundle of release {release[:12]} was written again while ledger entry "
            f"{collection.number} may still remove it: promote it after {end:%H:%M} UTC."
        )


def require_stored(entries: Sequence[LedgerEntry], release: str | None) -> None:
    """Pass when a release was not collected; raises `Refused`."""
    entry = collected(entries).get(Digest(release or ""))
    if entry is not None:
        raise Refused(
            f"The bundle of release {str(release)[:12]} was removed on {entry.time:%Y-%m-%d} "
            f"(ledger entry {entry.number}), so it cannot serve: build it again."
        )


def collection(
    entries: Sequence[LedgerEntry],
    stored: Sequence[Digest],
    policy: Policy,
    now: datetime,
    actor: str,
    halves: Sequence[Digest] = (),
) -> Mapping[str, Json] | None:
    """Return the entry that bundles are about to be removed; None when none has to go.

    Args:
        entries: The history.
        stored: Releases whose bundles are complete in the store.
        policy: What to keep.
        now: The present moment.
        actor: Who acts.
        halves: Releases of whose bundles an earlier collection left files behind.
    """
    going = removable(entries, stored, policy, now, halves)
    if not going:
        return None
    details: dict[str, Json] = {RELEASES: list(going)}
    reason = (
        f"{len(going)} bundles are no longer needed: more than {policy.depth} champions back, "
        f"and not named for {policy.age.days} days."
    )
    return body(EntryKind.COLLECTED, actor=actor, reason=reason, details=details)


def removable(
    entries: Sequence[LedgerEntry],
    stored: Sequence[Digest],
    policy: Policy,
    now: datetime,
    halves: Sequence[Digest] = (),
) -> tuple[Digest, ...]:
    """Return the stored releases that the ledger named once, and that nothing keeps, sorted.

    One that it never named may be on its way into it. `halves` go, too, unless they were named
    again since they were collected.
    """
    staying = kept(entries, policy, now)
    named = {entry.release for entry in entries if entry.release is not None}
    going = {digest for digest in stored if digest in named and digest not in staying}
    return tuple(sorted(going | (set(halves) & collected(entries).keys())))


def hold(
    entries: Sequence[LedgerEntry], version: str, *, lift: bool, actor: str, reason: str
) -> Mapping[str, Json] | None:
    """Return the entry that places or lifts a legal hold on a version; None where nothing changes.

    Raises:
        NotFound: The ledger knows no such version.
        Refused: Its bundle was removed.
    """
    about = (
        entry
        for entry in reversed(ledger.as_registered(entries))
        if entry.version == version and entry.release is not None
    )
    named = next(about, None)
    if named is None or named.release is None:
        raise NotFound(f"The ledger knows no version {version}: `requant history` lists them.")
    if (named.release in holds(entries)) is not lift:
        return None
    require_stored(entries, named.release)
    kind = EntryKind.HOLD_LIFTED if lift else EntryKind.HOLD_PLACED
    return body(kind, actor=actor, reason=reason, version=version, release=named.release)
