"""`requant keys`: what signs here, whose signatures count, and the replacement of a key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from infra.errors import BadInput, NotFound
from infra.settings import Settings


def shown(settings: Settings) -> Mapping[str, str]:
    """Return where the private key is, and the ids of the keys whose signatures count."""
    ring = settings.keys()
    trusted = {key.key_id: key.algorithm for key in ring.verifier().keys}
    return {
        "private key": ring.place,
        **{f"trusted {name}": kind for name, kind in trusted.items()},
    }


def exported(settings: Settings, key_id: str | None) -> bytes:
    """Return a public key in PEM; without an id, that of the key that signs.

    Raises:
        NotFound: No such key is trusted.
    """
    wanted = key_id or settings.signer().verifier().key_id
    for key in settings.verifier().keys:
        if key.key_id == wanted:
            return key.pem
    raise NotFound(f"No key {wanted} is trusted here: `requant keys show` lists them.")


def rotated(settings: Settings) -> Mapping[str, str]:
    """Replace the signing key; what the one before signed stays valid."""
    before, after = settings.keys().rotate()
    return {"signs now": after, "still trusted": before or "none"}


def trusted(settings: Settings, path: Path) -> Mapping[str, str]:
    """Trust a public key."""
    _require_own_list(settings)
    return {"trusted": settings.keys().trust(path)}


def retired(settings: Settings, key_id: str) -> Mapping[str, str]:
    """Trust a key no longer: bundles that it signed no longer load."""
    _require_own_list(settings)
    settings.keys().retire(key_id)
    return {"retired": key_id}


def _require_own_list(settings: Settings) -> None:
    if settings.trusted_keys is not None:
        raise BadInput(
            "REQUANT_TRUSTED_KEYS names the files that count: add or remove a file there."
        )
