"""Removing what nothing needs any more: bundles of old releases, and what a run makes again.

The ledger says first which bundles go. It is the fence: whoever rolls back or promotes decides on a
ledger that says so, and what was killed in between is finished by the next collection. A bundle's
manifest goes first, so that no half of a bundle is ever found.
"""

from __future__ import annotations

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
    now = datetime.now(UTC)
    entries, bundles = journal.read(model), _bundles(model)
    complete = [digest for digest, items in bundles.items() if _is_complete(digest, items)]
    going = rules.removable(entries, complete, policy, now)
    if going and not dry_run:
        entry = journal.commit(model, rules.collection, complete, policy, now, actor)
        # What was decided on the ledger as it then was: a rollback may have come in between.
        going = () if entry is None else rules.listed(entry)
        entries = journal.read(model)
    tally = _Tally(dry_run)
    gone = rules.collected(journal.read(model))
    for digest, items in bundles.items():
        since = now if digest in going else gone[digest].time if digest in gone else None
        if since is not None:
            for item in _manifest_first(items):
                if item.modified <= max(since, now) if digest in going else item.modified <= since:
                    tally.remove(layout.RELEASE, item)
    for kind, item in _old(model, now - policy.age):
        tally.remove(kind, item)
    versions = () if dry_run else _forget_versions(model, set(gone))
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


def _bundles(model: str) -> Mapping[Digest, Sequence[Listed]]:
    bundles: dict[Digest, list[Listed]] = {}
    for item in settings().store().listed(layout.RELEASE.prefix(model=model)):
        fields = layout.RELEASE.fields(item.key)
        if fields is not None:
            bundles.setdefault(Digest(fields["release"]), []).append(item)
    return bundles


def _is_complete(digest: str, items: Sequence[Listed]) -> bool:
    return any(item.key.endswith(f"{digest}/{layout.MANIFEST}") for item in items)


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
