"""The release bundle: content-addressed, immutable, optionally signed (ADR 33 and 38).

    releases/MODEL/DIGEST/<file>         the files as they were handed over
    releases/MODEL/DIGEST/manifest.sig   Ed25519 over the manifest's bytes, when signed
    releases/MODEL/DIGEST/manifest.json  written last: where it stands, the release is complete

DIGEST is the SHA-256 of the manifest, which holds every file's SHA-256: knowing the digest is
knowing all bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infra.canonical import Json, canonical, sha256
from infra.errors import BadInput, NotFound, Refused, RequantError, Tampered
from infra.identifiers import Digest, ModelName
from infra.run_scope import read_once
from infra.stores import layout
from infra.stores.key_rules import checked
from infra.stores.port import ObjectStore

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
    signed_by: str | None  # the signing key's id when a verifier checked it

    def file(self, name: str) -> bytes:
        """Return the file's bytes, their digest verified.

        Raises:
            NotFound: The manifest has no such name.
            Tampered: The bytes differ from their digest.
        """
        recorded = self.files.get(name)
        if recorded is None:
            raise NotFound(
                f"Release {self.digest[:12]} of {self.model} has no file {name}: "
                f"it has {sorted(self.files)}."
            )
        data = read_once(self.store, layout.release_file(self.model, self.digest, name))
        if sha256(data) != recorded.sha256:
            raise Tampered(
                f"The file {name} of release {self.digest[:12]} of {self.model} "
                "differs from its recorded digest and was not loaded: "
                "write the release again from its source, or roll back."
            )
        return data


class Signer:
    """An Ed25519 private key that signs manifests."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def from_pem(cls, path: Path | str) -> Signer:
        """Read the key in an unencrypted PKCS#8 PEM file; raises `BadInput`."""
        try:
            key = serialization.load_pem_private_key(Path(path).read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _bad_key(path, error) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _bad_key(path, TypeError("another kind of key"))
        return cls(key)

    @classmethod
    def create(cls, path: Path | str) -> Signer:
        """Make a key and write it to a new file that only its owner may read.

        Raises:
            BadInput: The file exists.
        """
        signer = cls(Ed25519PrivateKey.generate())
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(signer._private_pem())
        except OSError as error:
            raise BadInput(
                f"No signing key could be written to {path} ({error.strerror}): name a new file."
            ) from error
        return signer

    def sign(self, data: bytes) -> bytes:
        """Return the signature file for the data.

        It is JSON with format version, algorithm, key id and signature.
        """
        signature = base64.b64encode(self._key.sign(data)).decode()
        return canonical(
            {
                "version": _VERSION,
                "algorithm": "ed25519",
                "key": self.verifier().key_id,
                "signature": signature,
            }
        )

    def verifier(self) -> Verifier:
        """Return the public half."""
        return Verifier(self._key.public_key())

    def _private_pem(self) -> bytes:
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


class Verifier:
    """An Ed25519 public key that checks manifests."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @property
    def key_id(self) -> str:
        """The first 16 digits of the SHA-256 of the raw public key."""
        return sha256(self._key.public_bytes_raw())[:16]

    def check(self, data: bytes, signature_file: bytes, what: str) -> None:
        """Pass when the signature file holds this key's signature over the data.

        Raises:
            Tampered: It does not.
        """
        try:
            signature = json.loads(signature_file)
            self._key.verify(base64.b64decode(signature["signature"], validate=True), data)
        except (InvalidSignature, ValueError, KeyError, TypeError, binascii.Error) as error:
            raise Tampered(
                f"The signature of {what} does not hold for key {self.key_id}, "
                "so it was not loaded: "
                "check which key signed it, or roll back."
            ) from error


def write_release(
    store: ObjectStore,
    model: str,
    files: Mapping[str, bytes],
    facts: Mapping[str, Json],
    signer: Signer | None = None,
) -> Release:
    """Store a bundle under its content's address; writing the same one again changes nothing.

    Raises:
        BadInput: The model's or a file's name is bad, or JSON cannot hold the facts.
        Unavailable: The store does not answer.
    """
    recorded = {name: FileFact(sha256(data), len(data)) for name, data in files.items()}
    manifest = _manifest(model, recorded, facts)
    digest = sha256(manifest)
    for name, data in files.items():
        store.put(layout.release_file(model, digest, name), data)
    if signer is not None:
        store.put(layout.release_file(model, digest, _SIGNATURE), signer.sign(manifest))
    store.put(layout.release_file(model, digest, layout.MANIFEST), manifest)
    return _release(store, digest, manifest, signer.verifier().key_id if signer else None)


def read_release(
    store: ObjectStore, model: str, digest: str, verifier: Verifier | None = None
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
    if verifier is not None:
        verifier.check(manifest, _signature(store, model, digest, name), name)
    release = _release(store, digest, manifest, verifier.key_id if verifier else None)
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


def _manifest(model: str, files: Mapping[str, FileFact], facts: Mapping[str, Json]) -> bytes:
    if _MODEL.fullmatch(model) is None:
        raise BadInput(
            f"The model name {model!r} cannot be part of a key: "
            "use letters, digits, '.', '_' and '-'."
        )
    for name in files:
        if checked(name) in (layout.MANIFEST, _SIGNATURE):
            raise BadInput(f"The file name {name!r} is the release's own: choose another.")
    listed: dict[str, Json] = {
        name: {"sha256": fact.sha256, "size": fact.size} for name, fact in files.items()
    }
    return canonical({"version": _VERSION, "model": model, "facts": facts, "files": listed})


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
        model = ModelName(str(content["model"]))
        return Release(store, model, Digest(digest), dict(content["facts"]), files, signed_by)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"The manifest of release {digest[:12]} cannot be read ({error!r}): write it again."
        ) from error


def _bad_key(path: Path | str, error: Exception) -> RequantError:
    return BadInput(
        f"The file {path} holds no Ed25519 private key in PEM ({error}): "
        "make one or name the right file."
    )
