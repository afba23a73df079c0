"""Removing what nothing needs any more: bundles of old releases, and what a run makes again.

The ledger says first which bundles go. It is the fence: whoever rolls back or promotes decides on a
ledger that says so, and what was killed in between is finished by the next collection, under an
entry of its own. A bundle's manifest goes first, so that no half of a bundle is ever found. What an
entry lists is removed within `REMOVING` of it, and what is written again meanwhile is promoted
later.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from infra.identifiers import Digest
from infra.settings import settings
from infra.stores import layout
from infra.stores.layout import ObjectKind
from infra.stores.port import Listed
from tasks.promotion import journal
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.retention import policy as rules
from tasks.promotion.retention.policy import Policy

REMADE = (
    layout.CANDIDATE,
    layout.DRAW,
    layout.FROZEN_TRAFFIC,
    layout.VERDICT,
    layout.SENSITIVITY,
    layout.EMBEDDING,
)
"""Kinds that a run makes again, and that nothing but a run reads."""
PAGES = (layout.REPORT,)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed, or would remove."""

    model: str
    dry_run: bool
    objects: Mapping[str, int]  # kind of object -> how many
    bytes: int  # of their contents
    releases: tuple[Digest, ...]  # whose bundles went
    kept: Mapping[Digest, str]  # whose bundles stay -> why
    versions: tuple[str, ...] = ()  # of the registry that went with them


@dataclass(slots=True)
class _Tally:
    """Counts what is removed; in a dry run nothing is."""

    dry_run: bool
    objects: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    def remove(self, kind: ObjectKind, item: Listed) -> None:
        self.objects[kind.name] += 1
        self.bytes += item.size
        if not self.dry_run:
            settings().store().delete(item.key)


def collect(model: str, policy: Policy, actor: str, *, dry_run: bool) -> Collected:
    """Remove a model's old bundles and whatever a run makes again; say what was freed.

    What the ledger, the depth of rollbacks, a person's pending answer or a legal hold needs stays.
    Raises `Tampered` for a ledger that cannot be trusted, `Unavailable`.
    """
    now, end = datetime.now(UTC), time.monotonic() + rules.REMOVING.total_seconds() / 2
    entries, bundles = journal.read(model), _bundles(model)
    stored, halves = _sorted(bundles, rules.collected(entries), now - policy.age)
    going = rules.removable(entries, stored, policy, now, halves)
    if going and not dry_run:
        entry = journal.commit(model, rules.collection, stored, policy, now, actor, halves)
        # What was decided on the ledger as it then was: a rollback may have come in between.
        going = () if entry is None else rules.listed(entry)
        entries = journal.read(model)
    tally = _Tally(dry_run)
    for digest in going:
        for item in _manifest_first(bundles[digest]):
            # Later, somebody may have written it again, and promoted it.
            if item.modified <= now and time.monotonic() < end:
                tally.remove(layout.RELEASE, item)
    for kind, item in _old(model, now - policy.age):
        tally.remove(kind, item)
    gone = set(rules.collected(entries))
    versions = () if dry_run else _forget_versions(model, gone)
    staying = rules.kept(entries, policy, now)
    return Collected(
        model,
        dry_run,
        dict(tally.objects),
        tally.bytes,
        going,
        {digest: why for digest, why in staying.items() if digest in bundles},
        versions,
    )


def _sorted(
    bundles: Mapping[Digest, Sequence[Listed]],
    gone: Mapping[Digest, LedgerEntry],
    before: datetime,
) -> tuple[Sequence[Digest], Sequence[Digest]]:
    """Return the complete bundles, and those of which a collection left files behind.

    Left out are those that were written again since they were collected, unless before a moment:
    they may be on their way into the ledger.
    """
    complete, halves = [], []
    for digest, items in bundles.items():
        newest, collection = max(item.modified for item in items), gone.get(digest)
        if collection is not None and newest > max(collection.time, before):
            continue
        if any(item.key.endswith(f"{digest}/{layout.MANIFEST}") for item in items):
            complete.append(digest)
        elif collection is not None:
            halves.append(digest)
    return complete, halves


def _bundles(model: str) -> Mapping[Digest, Sequence[Listed]]:
    bundles: dict[Digest, list[Listed]] = {}
    for item in settings().store().listed(layout.RELEASE.prefix(model=model)):
        fields = layout.RELEASE.fields(item.key)
        if fields is not None:
            bundles.setdefault(Digest(fields["release"]), []).append(item)
    return bundles


def _manifest_first(items: Sequence[Listed]) -> Sequence[Listed]:
    return sorted(items, key=lambda item: not item.key.endswith(f"/{layout.MANIFEST}"))


def _old(model: str, before: datetime) -> Iterator[tuple[ObjectKind, Listed]]:
    """List what a run makes again, and pages, last written before a moment."""
    for kind in (*REMADE, *PAGES):
        for item in settings().store().listed(kind.prefix(model=model)):
            if kind.fields(item.key) is not None and item.modified < before:
                yield kind, item


def _forget_versions(model: str, gone: set[Digest]) -> tuple[str, ...]:
    """Delete the registry's versions of releases whose bundles are gone, with their files."""
    registry = settings().registry()
    stale = [
        version.version
        for version in registry.versions(model)
        if version.release is not None and Digest(version.release) in gone
    ]
    for version in stale:
        registry.remove_version(model, version)
    return tuple(stale)
