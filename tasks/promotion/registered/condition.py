"""In which condition a champion is: its bundle in the store, and its copy in the registry.

Nothing is read whose stamp is as it was when it last was verified; `doctor` reads everything.
"""

from __future__ import annotations

from infra.errors import NotFound, Refused, RequantError
from infra.settings import settings
from infra.stores import layout
from infra.stores.digests import DigestCache
from infra.weights.naming import file_name
from tasks.promotion.verification import registered_graph
from tasks.records import ReleaseRef


def known_digests(model: str) -> DigestCache:
    """Return what this workspace verified of a model before."""
    return DigestCache(settings().root / "verified" / f"{model}.json")


def wrong_in_bundle(release: ReleaseRef, digests: DigestCache) -> str | None:
    """Return what is wrong with a bundle, a sentence; None where every file is as signed.

    Raises `Unavailable`.
    """
    store = settings().store()
    try:
        bundle = settings().release(release.model, release.digest)
        for name, fact in bundle.files.items():
            key = layout.release_file(release.model, release.digest, name)
            if digests.digest(store, key) != fact.sha256:
                return f"The file {name} of its bundle differs from its recorded digest."
        for name in bundle.weights:
            if file_name(digests.digest(store, layout.weight(name))) != name:
                return f"The weights {name} of its bundle differ from their digest."
    except (Refused, NotFound) as error:
        return str(error)
    return None


def wrong_in_copy(release: ReleaseRef, digests: DigestCache) -> str | None:
    """Return what is wrong with a release's version in the registry; None where nothing is.

    The bundle's manifest says what it must hold. Raises `NotFound` for a version that is gone,
    `Unavailable`, and what is wrong with that manifest.
    """
    graph = registered_graph(settings().release(release.model, release.digest))
    return settings().registry().wrong_in(release.model, release.version, graph, digests)


def wrong_with(release: ReleaseRef) -> str | None:
    """Return what is wrong with bundle or copy, everything read anew; None where nothing is."""
    try:
        return wrong_in_bundle(release, DigestCache(None)) or wrong_in_copy(
            release, DigestCache(None)
        )
    except RequantError as error:
        return str(error)
