"""Signatures of a log's entries: by the service's key, on behalf of who is named in the entry."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import cached_property

from infra.keys.private import SigningKey
from infra.keys.public import TrustedKeys


class Seal:
    """Signs digests of entries and checks such signatures; neither key is opened before its use."""

    def __init__(
        self, signer: Callable[[], SigningKey], trusted: Callable[[], TrustedKeys]
    ) -> None:
        """Name how the private key and the public keys are opened."""
        self._open_signer = signer
        self._open_trusted = trusted

    def sign(self, log: str, digest: str) -> str:
        """Return the signature of an entry, in base 64."""
        return base64.b64encode(self._signer.signature(_signed(log, digest))).decode()

    @property
    def key(self) -> str:
        """The id of the key that signs."""
        return self._signer.verifier().key_id

    def knows(self, key: str) -> bool:
        """Return whether a key is trusted."""
        return key in self._trusted.ids

    def holds(self, log: str, digest: str, key: str, signature: str) -> bool:
        """Return whether a trusted key of that id signed the entry of that log."""
        try:
            raw = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError):
            return False
        return self._trusted.holds(key, _signed(log, digest), raw)

    @cached_property
    def _signer(self) -> SigningKey:
        return self._open_signer()

    @cached_property
    def _trusted(self) -> TrustedKeys:
        return self._open_trusted()


def _signed(log: str, digest: str) -> bytes:
    """Return what is signed: the log's name, too, or an entry could be copied to another log."""
    return f"requant log entry\n{log}\n{digest}".encode()
