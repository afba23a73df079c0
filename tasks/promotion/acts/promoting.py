"""What makes a version champion: a promotion, a person's answer, a rollback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from infra.canonical import Json
from infra.errors import NotFound, Refused
from infra.run_scope import run_scope
from infra.settings import settings
from infra.stores import layout
from tasks.promotion import entries, history, journal, ledger, projection
from tasks.promotion.acts.restoring import servable
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.retention.policy import last_collection, require_settled, require_stored
from tasks.promotion.verification import intact_release, named_release, require_intact
from tasks.records import ReleaseRef


@run_scope()
def promote(release: ReleaseRef, base: str | None, actor: str, reason: str) -> None:
    """Make a release champion, if the champion it was judged against still reigns.

    Every file of its bundle is verified first. Raises `Refused` otherwise, `NotFound`, `Tampered`.
    """
    release = _verified(release)
    shown = partial(projection.shown_champion, release.model)

    def decide(history_now: Sequence[LedgerEntry]) -> Mapping[str, Json] | None:
        _require_kept(history_now, release)
        return entries.promoted(history_now, release, base, shown, actor, reason)

    journal.commit(release.model, decide)
    projection.show(release.model)


def _verified(release: ReleaseRef) -> ReleaseRef:
    """Return a release as `servable` does; refuse one whose bundle is being collected meanwhile."""
    try:
        return servable(release)
    except NotFound:
        require_stored(journal.read(release.model), release.digest)
        raise


def _require_kept(history_now: Sequence[LedgerEntry], release: ReleaseRef) -> None:
    """Pass when no collection takes a bundle that was verified; raises `Refused`, `Tampered`.

    One that was written again after a collection of it stays once that must have ended: it may
    have taken files that were verified before.
    """
    collection = last_collection(history_now, release.digest)
    if collection is None:
        return
    manifest = layout.release_file(release.model, release.digest, layout.MANIFEST)
    written = [item.modified for item in settings().store().listed(manifest)]
    if not any(moment > collection.time for moment in written):
        require_stored(history_now, release.digest)
    require_settled(collection, release.digest, datetime.now(UTC))
    require_intact(release)


@run_scope()
def answer(model: str, version: str, approve: bool, actor: str, reason: str) -> None:
    """Record a person's yes or no to a waiting candidate; answering the same twice acts once.

    Every file of its bundle is verified before a yes is recorded. Raises `Refused` when none waits,
    or the champion has changed since it was judged, `NotFound`, `Tampered`.
    """
    verify = partial(intact_release, model)
    journal.commit(model, entries.answered, model, version, approve, verify, actor, reason)
    approved = history.approved_release(model, version)
    if approve and approved is not None:
        promote(*approved, actor, reason)
    projection.show(model)


def finish_approvals(model: str) -> tuple[str, ...]:
    """Promote what was approved and, its process killed, never promoted; say what cannot be."""
    notes = []
    for approval in ledger.cut_off_approvals(journal.read(model)):
        approved = history.approved_release(model, str(approval.version))
        if approved is None:
            continue
        try:
            promote(*approved, approval.actor, approval.reason)
            notes.append(f"The approval of version {approval.version} was cut off: promoted now.")
        except Refused as exc:
            notes.append(f"Version {approval.version} is approved and cannot be promoted: {exc}")
    return tuple(notes)


@run_scope()
def roll_back(model: str, to: str | None, actor: str, reason: str, request: str) -> ReleaseRef:
    """Make an earlier champion serve again; its bytes and signature are verified first.

    So is its version in the registry, and registered again where that was deleted or replaced. The
    same `request` again changes nothing, and returns what it brought back. Raises `Refused`,
    `NotFound`, `Tampered`.
    """
    shown = partial(projection.shown_champion, model)

    def verify(target: LedgerEntry) -> ReleaseRef:
        require_stored(journal.read(model), target.release)
        return _verified(named_release(model, target))

    entry = journal.commit(model, entries.rolled_back, to, request, verify, shown, actor, reason)
    projection.show(model)
    return named_release(model, entry or history.of_request(model, request))
