"""What a reviewer would find wrong with a model: its ledger, anchors, bundles and copies."""

from __future__ import annotations

from collections.abc import Iterator

from infra.errors import BadInput, NotFound, Refused, RequantError, Tampered, Unavailable
from infra.settings import settings
from infra.stores.digests import DigestCache
from tasks.promotion import history, journal, ledger, projection
from tasks.promotion.registered.condition import wrong_in_bundle, wrong_in_copy
from tasks.promotion.retention.policy import collected
from tasks.promotion.verification import wrong_in_attestations
from tasks.records import ReleaseRef


def faults(model: str) -> Iterator[str]:
    """Yield what is wrong, a sentence each; everything is read anew.

    Looked at are the chain with its signatures, the registry's anchor, the bundle of every release
    that the ledger names, and what the aliases lead to in the registry.
    """
    yield from journal.faults(model)
    try:
        entries = journal.read(model)
    except (Tampered, BadInput) as error:
        yield f"The ledger of {model} cannot be trusted, so no bundle was looked at: {error}"
        return
    try:
        projection.anchored(model)
    except (Tampered, Unavailable) as error:
        yield str(error)
    gone = collected(entries)
    releases = {
        entry.release: release
        for entry in ledger.as_registered(entries)
        if (release := history.reference(model, entry)) is not None and entry.release not in gone
    }
    for release in releases.values():
        yield from _wrong_in_release(release)
    for alias, version in ledger.aliases(entries).items():
        led = next((ref for ref in releases.values() if ref.version == version), None)
        if led is not None:
            yield from _wrong_copy(alias, led)


def _wrong_in_release(release: ReleaseRef) -> Iterator[str]:
    name = f"Release {release.digest[:12]} of {release.model} (version {release.version})"
    try:
        wrong = wrong_in_bundle(release, DigestCache(None))
        if wrong is not None:
            yield f"{name}: {wrong}"
            return
        stored = settings().release(release.model, release.digest)
        yield from (f"{name}: {sentence}" for sentence in wrong_in_attestations(stored))
    except RequantError as error:
        yield f"{name}: {error}"


def _wrong_copy(alias: str, release: ReleaseRef) -> Iterator[str]:
    name = f"Version {release.version} of {release.model}, {alias}, in the registry"
    try:
        wrong = wrong_in_copy(release, DigestCache(None))
    except NotFound:
        wrong = "it is gone"
    except (Refused, BadInput):
        return  # of the bundle, which was told already
    except Unavailable as error:
        wrong = str(error)
    if wrong is not None:
        yield f"{name}: {wrong}"
