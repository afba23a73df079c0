"""Public keys: what a signature is checked with, by whoever serves."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from infra.canonical import sha256
from infra.errors import BadInput, Tampered

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
ED25519, P256 = "ed25519", "ecdsa-p256-sha256"
"""The algorithms: RFC 8032; FIPS 186-5 with SHA-256, the signature in DER."""
_DER, _PEM = serialization.Encoding.DER, serialization.Encoding.PEM
_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


class Verifier:
    """One public key."""

    def __init__(self, key: PublicKey) -> None:
        """Take an Ed25519 key or one of the curve P-256."""
        self._key = key

    @property
    def key_id(self) -> str:
        """The first 16 digits of a SHA-256: of a raw Ed25519 key, or of a P-256 key in DER."""
        if isinstance(self._key, Ed25519PublicKey):
            return sha256(self._key.public_bytes_raw())[:16]
        return sha256(self._key.public_bytes(_DER, _SPKI))[:16]

    @property
    def algorithm(self) -> str:
        """The name of its algorithm in signature files."""
        return ED25519 if isinstance(self._key, Ed25519PublicKey) else P256

    @property
    def pem(self) -> bytes:
        """The key as a SubjectPublicKeyInfo in PEM, which other tools read."""
        return self._key.public_bytes(_PEM, _SPKI)

    def holds(self, data: bytes, signature: bytes) -> bool:
        """Return whether these are the bytes of this key's signature over the data."""
        try:
            if isinstance(self._key, Ed25519PublicKey):
                self._key.verify(signature, data)
            else:
                self._key.verify(signature, data, ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def check(self, data: bytes, signature_file: bytes, what: str) -> str:
        """Return the key's id when the signature file holds its signature over the data.

        Raises:
            Tampered: It does not.
        """
        return TrustedKeys([self]).check(data, signature_file, what)


@dataclass(frozen=True, slots=True)
class SignatureFile:
    """What a signature file says."""

    key: str  # the signing key's id
    signature: bytes


class TrustedKeys:
    """The public keys whose signatures count: more than one while a key is being replaced."""

    def __init__(self, keys: Iterable[Verifier]) -> None:
        """Take the keys; without any, nothing counts."""
        self._keys: Mapping[str, Verifier] = {key.key_id: key for key in keys}

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, sorted."""
        return tuple(sorted(self._keys))

    @property
    def keys(self) -> tuple[Verifier, ...]:
        """The keys, by id."""
        return tuple(self._keys[name] for name in self.ids)

    def holds(self, key: str, data: bytes, signature: bytes) -> bool:
        """Return whether one of these keys has that id, and the signature is its own."""
        known = self._keys.get(key)
        return known is not None and known.holds(data, signature)

    def check(self, data: bytes, signature_file: bytes, what: str) -> str:
        """Return the id of the key whose signature over the data the file holds.

        Raises:
            Tampered: It holds none, or that of a key that is not trusted.
        """
        try:
            signed = read_signature(signature_file)
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise Tampered(
                f"The signature of {what} cannot be read, so it was not loaded: "
                "restore it from a backup of the store, or roll back."
            ) from error
        if signed.key in self._keys and self.holds(signed.key, data, signed.signature):
            return signed.key
        raise Tampered(
            f"The signature of {what} does not hold for key {', '.join(self.ids) or 'none'}, "
            f"so it was not loaded (it names key {signed.key[:16]}): check which key signed it, "
            "`requant keys trust` its public key where that is yours, or roll back."
        )


def read_signature(signature_file: bytes) -> SignatureFile:
    """Read a signature file; raises `ValueError`, `KeyError`, `TypeError`."""
    document = json.loads(signature_file)
    return SignatureFile(
        str(document["key"]), base64.b64decode(document["signature"], validate=True)
    )


def read_public_key(path: Path) -> Verifier:
    """Read a public key in PEM; raises `BadInput`."""
    try:
        return public_key(serialization.load_pem_public_key(path.read_bytes()))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(
            f"The file {path} holds no Ed25519 or P-256 public key in PEM ({error}): "
            "name the file that `requant keys export` wrote."
        ) from error


def public_key(key: object) -> Verifier:
    """Return a key that the library read; raises `TypeError` for one of another kind."""
    if isinstance(key, Ed25519PublicKey) or (
        isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    ):
        return Verifier(key)
    raise TypeError("another kind of key")
