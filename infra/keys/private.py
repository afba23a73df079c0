"""Private keys: in a file, in an environment variable, or in a key management service."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.canonical import canonical
from infra.errors import BadInput
from infra.keys.public import Verifier, public_key

_VERSION = 1
ENVIRONMENT, KMS = "env:", "awskms:"
"""How a setting names a variable that holds the key in PEM, or a key of AWS KMS."""
PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey


class SigningKey(Protocol):
    """What signs; the private half may be anywhere."""

    def signature(self, data: bytes) -> bytes:
        """Return the bytes of a signature over the data; raises `Unavailable`."""
        ...

    def verifier(self) -> Verifier:
        """Return the public half; raises `Unavailable`."""
        ...


class Signer:
    """A private key of the curve P-256, or an Ed25519 key of an earlier version of Requant."""

    def __init__(self, key: PrivateKey) -> None:
        """Take the key."""
        self._key = key

    @classmethod
    def from_pem(cls, path: Path | str) -> Signer:
        """Read the key in an unencrypted PKCS#8 PEM file; raises `BadInput`."""
        try:
            return cls(_loaded(Path(path).read_bytes()))
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _bad_key(f"The file {path}", error) from error

    @classmethod
    def from_environment(cls, name: str) -> Signer:
        """Read the key, in PEM, of an environment variable; raises `BadInput`."""
        try:
            return cls(_loaded(os.environ[name].replace("\\n", "\n").encode()))
        except KeyError as error:
            raise BadInput(
                f"The variable {name} that is to hold the signing key is not set: set it to the "
                "key in PEM, or name another with REQUANT_SIGNING_KEY."
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _bad_key(f"The variable {name}", error) from error

    @classmethod
    def create(cls, path: Path | str) -> Signer:
        """Make a key and write it to a new file that only its owner may read.

        Raises:
            BadInput: The file exists.
        """
        signer = cls(generate_private_key(SECP256R1()))
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(signer._private_pem())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BadInput(
                f"No signing key could be written to {path} ({error.strerror}): name a new file."
            ) from error
        return signer

    def signature(self, data: bytes) -> bytes:
        """Return the bytes of a signature over the data."""
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(data)
        return self._key.sign(data, ECDSA(hashes.SHA256()))

    def sign(self, data: bytes) -> bytes:
        """Return the signature file for the data; see `signed`."""
        return signed(self, data)

    def verifier(self) -> Verifier:
        """Return the public half."""
        return Verifier(self._key.public_key())

    def _private_pem(self) -> bytes:
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def signed(key: SigningKey, data: bytes) -> bytes:
    """Return a signature file: JSON with format version, algorithm, key id and signature."""
    public = key.verifier()
    return canonical(
        {
            "version": _VERSION,
            "algorithm": public.algorithm,
            "key": public.key_id,
            "signature": base64.b64encode(key.signature(data)).decode(),
        }
    )


def _loaded(pem: bytes) -> PrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, PrivateKey):
        raise TypeError("another kind of key")
    public_key(key.public_key())
    return key


def _bad_key(place: str, error: Exception) -> BadInput:
    return BadInput(
        f"{place} holds no P-256 or Ed25519 private key in PEM ({error}): "
        "make one or name the right file."
    )
