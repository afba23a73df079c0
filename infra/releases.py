"""The release bundle: content-addressed, immutable, optionally signed (ADR 33 and 38).

    releases/MODEL/DIGEST/<file>         the files as they were handed over
    releases/MODEL/DIGEST/bom.cdx.json   what it is made of (CycloneDX), when signed
    releases/MODEL/DIGEST/provenance.intoto.jsonl   how it was made (SLSA), when signed
    releases/MODEL/DIGEST/model.sig      OpenSSF model signature over all of these, by a P-256 key
    releases/MODEL/DIGEST/manifest.sig   the key's signature over the manifest's bytes
    releases/MODEL/DIGEST/manifest.json  written last: where it stands, the release is complete

DIGEST is the SHA-256 of the manifest, which holds every file's SHA-256: knowing the digest is
knowing all bytes. Large weights lie beside, under names that are their digests, and the manifest
lists them: releases of one model share those that are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from infra.canonical import Json, canonical, sha256
from infra.errors import BadInput, NotFound, Refused, Tampered
from infra.identifiers import Digest, Key, ModelName
from infra.keys.attestations import ATTESTATIONS, attestations
from infra.keys.private import SigningKey, signed
from infra.keys.public import TrustedKeys, Verifier
from infra.run_scope import read_once
from infra.stores import layout
from infra.stores.key_rules import checked
from infra.stores.port import ObjectStore
from infra.weights.naming import weight_files

_VERSION = 1
_SIGNATURE = "manifest.sig"
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileFact:
    """What the manifest says of one file."""

    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Release:
    """One verified manifest; files are read, and verified, when asked for."""

    store: ObjectStore
    model: ModelName
    digest: Digest
    facts: Mapping[
        str, Json
    ]  # calibration set, recipe, scales, versions, targets: whatever the maker recorded
    files: Mapping[str, FileFact]
    weights: Mapping[str, int]  # files beside its graphs, whose names are digests, with their bytes
    signed_by: str | None  # the signing key's id when a verifier checked it

    def file(self, name: str) -> bytes:
        """Return the file's bytes, their digest verified; within a run they are read once.

        Raises:
            NotFound: The manifest has no such name.
            Tampered: The bytes differ from their digest.
        """
        if name not in self.files:
            raise NotFound(
                f"Release {self.digest[:12]} of {self.model} has no file {name}: "
                f"it has {sorted(self.files)}."
            )
        return self._verified(name, read_once(self.store, self._key(name)))

    def require_intact(self) -> None:
        """Pass when every file is as recorded, each read from the store now.

        Raises:
            NotFound: A file is gone.
            Tampered: The bytes of one differ from their digest.
        """
        for name in self.files:
            self.require_file(name)

    def require_file(self, name: str) -> None:
        """Pass when a file is as recorded, read from the store now; raises as `require_intact`."""
        self._require(name, self.store.digest(self._key(name)))

    def _key(self, name: str) -> Key:
        return layout.release_file(self.model, self.digest, name)

    def _verified(self, name: str, data: bytes) -> bytes:
        self._require(name, sha256(data))
        return data

    def _require(self, name: str, digest: Digest) -> None:
        if digest != self.files[name].sha256:
            raise Tampered(
                f"The file {name} of release {self.digest[:12]} of {self.model} "
                "differs from its recorded digest and was not loaded: "
                "write the release again from its source, or roll back."
            )


def write_release(
    store: ObjectStore,
    model: str,
    files: Mapping[str, bytes],
    facts: Mapping[str, Json],
    signer: SigningKey | None = None,
) -> Release:
    """Store a bundle under its content's address; writing the same one again changes nothing.

    Raises:
        BadInput: The model's or a file's name is bad, or JSON cannot hold the facts.
        Unavailable: The store does not answer.
    """
    recorded = {name: FileFact(sha256(data), len(data)) for name, data in files.items()}
    weights: dict[str, int] = {}
    for data in files.values():
        weights |= weight_files(data)
    manifest = _manifest(model, recorded, facts, weights)
    digest = sha256(manifest)
    for name, data in files.items():
        store.put(layout.release_file(model, digest, name), data)
    if signer is not None:
        signature = signed(signer, manifest)
        digests = {name: fact.sha256 for name, fact in recorded.items()}
        digests |= {layout.MANIFEST: digest, _SIGNATURE: sha256(signature)}
        for name, data in attestations(signer, model, digest, digests, facts).items():
            store.put(layout.release_file(model, digest, name), data)
        store.put(layout.release_file(model, digest, _SIGNATURE), signature)
    store.put(layout.release_file(model, digest, layout.MANIFEST), manifest)
    return _release(store, digest, manifest, signer.verifier().key_id if signer else None)


def read_release(
    store: ObjectStore,
    model: str,
    digest: str,
    verifier: Verifier | TrustedKeys | None = None,
) -> Release:
    """Read a stored bundle, its manifest verified.

    The digest verifies it and, given a verifier, the signature.

    Raises:
        NotFound: There is no such release.
        Tampered: The manifest differs from its digest or its signature.
        Refused: The bundle is unsigned where a signature is demanded.
        Unavailable: The store does not answer.
    """
    if _MODEL.fullmatch(model) is None or _DIGEST.fullmatch(digest) is None:
        raise BadInput(
            f"{digest!r} of {model!r} names no release: "
            "give a model's name and 64 hexadecimal digits."
        )
    name = f"release {digest[:12]} of {model}"
    manifest = store.get(layout.release_file(model, digest, layout.MANIFEST))
    if sha256(manifest) != digest:
        raise Tampered(
            f"The manifest of {name} differs from its digest and was not loaded: "
            "restore it, or roll back."
        )
    signed_by = None
    if verifier is not None:
        signed_by = verifier.check(manifest, _signature(store, model, digest, name), name)
    release = _release(store, digest, manifest, signed_by)
    if release.model != model:
        raise Tampered(
            f"The manifest of {name} belongs to {release.model}: ask for it under that name."
        )
    return release


def _signature(store: ObjectStore, model: str, digest: str, what: str) -> bytes:
    try:
        return store.get(layout.release_file(model, digest, _SIGNATURE))
    except NotFound as error:
        raise Refused(
            f"The {what} is not signed, and a signature is demanded: sign it by writing it again."
        ) from error


def _manifest(
    model: str,
    files: Mapping[str, FileFact],
    facts: Mapping[str, Json],
    weights: Mapping[str, int],
) -> bytes:
    if _MODEL.fullmatch(model) is None:
        raise BadInput(
            f"The model name {model!r} cannot be part of a key: "
            "use letters, digits, '.', '_' and '-'."
        )
    for name in files:
        if checked(name) in (layout.MANIFEST, _SIGNATURE, *ATTESTATIONS):
            raise BadInput(f"The file name {name!r} is the release's own: choose another.")
    listed: dict[str, Json] = {
        name: {"sha256": fact.sha256, "size": fact.size} for name, fact in files.items()
    }
    beside: dict[str, Json] = {"weights": dict(weights)} if weights else {}
    return canonical(
        {"version": _VERSION, "model": model, "facts": facts, "files": listed, **beside}
    )


def _release(store: ObjectStore, digest: str, manifest: bytes, signed_by: str | None) -> Release:
    try:
        content = json.loads(manifest)
        if content["version"] != _VERSION:
            raise BadInput(
                f"Release {digest[:12]} has format version {content['version']}: "
                "upgrade Requant to read it."
            )
        files = {
            name: FileFact(str(fact["sha256"]), int(fact["size"]))
            for name, fact in content["files"].items()
        }
        weights = {str(name): int(size) for name, size in content.get("weights", {}).items()}
        model, facts = ModelName(str(content["model"])), dict(content["facts"])
        return Release(store, model, Digest(digest), facts, files, weights, signed_by)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"The manifest of release {digest[:12]} cannot be read ({error!r}): write it again."
        ) from error
