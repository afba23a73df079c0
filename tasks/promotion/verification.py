"""Whether a version may serve again: its bytes and signature hold, and its gates passed."""

from __future__ import annotations

from collections.abc import Mapping

from infra.canonical import Json
from infra.errors import BadInput, NotFound, Refused, Tampered
from infra.identifiers import ModelName
from infra.keys.attestations import (
    ATTESTATIONS,
    MODEL_SIGNATURE,
    PROVENANCE,
    opened,
    wrong_in_model_signature,
)
from infra.keys.public import P256
from infra.releases import Release, read_release
from infra.settings import settings
from infra.stores import layout
from infra.stores.digests import DigestCache
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.reconcile import Verification
from tasks.promotion.release import CPU_PLAN, GRAPH
from tasks.records import ReleaseRef


def intact_release(model: str, target: LedgerEntry) -> ReleaseRef:
    """Return the release that an entry names, every byte of it verified.

    Raises `Refused` where the entry names none, `NotFound`, `Tampered`.
    """
    release = named_release(model, target)
    require_intact(release)
    return release


def require_intact(release: ReleaseRef) -> None:
    """Pass when every file of a release is as recorded and signed.

    Raises `NotFound`, `Tampered`.
    """
    _read_all(release.model, release.digest)


def named_release(model: str, target: LedgerEntry) -> ReleaseRef:
    """Return the release that an entry names; raises `Refused` where it names none."""
    if target.release is None or target.version is None:
        raise Refused(
            f"version {target.version} of {model} has no release recorded, so it cannot be verified"
        )
    return ReleaseRef(ModelName(model), target.version, target.release)


def verification(model: str, version: str) -> Verification:
    """Return whether a version of the registry may serve; why not, where it may not.

    Its tag names a release, whose bundle is intact and passed its gates, and its own files are that
    release's: a tag alone proves nothing.
    """
    registry = settings().registry()
    try:
        digest = registry.version(model, version).release
        if digest is None:
            return Verification(False, "it carries no release")
        release = _read_all(model, digest)
        if not _passed(release.facts):
            return Verification(False, "its golden gates did not pass")
        wrong = registry.wrong_in(model, version, registered_graph(release), DigestCache(None))
    except (Refused, NotFound, BadInput) as exc:
        return Verification(False, str(exc))
    if wrong is not None:
        return Verification(False, f"it bears the release's tag, and {wrong}")
    return Verification(True, release=digest)


def wrong_in_attestations(release: Release) -> tuple[str, ...]:
    """Return what is wrong with what a bundle says of itself to other tools, a sentence each.

    Bundles of earlier versions of Requant say nothing. Raises `Unavailable`.
    """
    store, prefix = release.store, layout.release_file(release.model, release.digest, "")
    digests = {key.removeprefix(prefix): store.digest(key) for key in store.list(prefix)}
    if not digests.keys() & set(ATTESTATIONS):
        return ()
    trusted, wrong = settings().verifier(), []
    try:
        opened(trusted, store.get(f"{prefix}{PROVENANCE}"))
    except (NotFound, Tampered, ValueError, KeyError, TypeError):
        wrong.append(f"The file {PROVENANCE} bears no signature of a trusted key.")
    is_p256 = any(key.key_id == release.signed_by and key.algorithm == P256 for key in trusted.keys)
    if digests.pop(MODEL_SIGNATURE, None) is not None:
        bundle = store.get(f"{prefix}{MODEL_SIGNATURE}")
        wrong += [fault] if (fault := wrong_in_model_signature(trusted, bundle, digests)) else []
    elif is_p256:
        wrong.append(f"The file {MODEL_SIGNATURE} is gone.")
    return tuple(wrong)


def registered_graph(release: Release) -> str:
    """Return the SHA-256 of the graph that a release's version holds in the registry."""
    return release.files[CPU_PLAN if CPU_PLAN in release.files else GRAPH].sha256


def _read_all(model: str, digest: str) -> Release:
    # Not as the run opened it: what it read an hour ago may have changed since.
    release = read_release(settings().store(), model, digest, settings().verifier())
    release.require_intact()
    for name in release.weights:
        settings().weights().require_stored(name)
    return release


def _passed(facts: Mapping[str, Json]) -> bool:
    """Return whether the gates let it through on the target that could be executed."""
    verdicts = facts.get("verdicts")
    if not isinstance(verdicts, Mapping):
        return False
    return "passed" in verdicts.values() and "failed" not in verdicts.values()
