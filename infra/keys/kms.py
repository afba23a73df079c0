"""A signing key that never leaves AWS's key management service, or what speaks its protocol."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives import serialization

from infra.canonical import sha256
from infra.errors import BadInput, Unavailable
from infra.keys.public import Verifier, public_key

_ALGORITHM = "ECDSA_SHA_256"
_MOST = 4096
"""Bytes of a message that the service hashes itself."""


def _message(data: bytes) -> dict[str, Any]:
    if len(data) <= _MOST:
        return {"Message": data, "MessageType": "RAW"}
    return {"Message": bytes.fromhex(sha256(data)), "MessageType": "DIGEST"}


class KmsKey:
    """An asymmetric key of the specification ECC_NIST_P256, used for SIGN_VERIFY."""

    def __init__(self, name: str, region: str | None = None) -> None:
        """Name the key by its id, ARN or alias; credentials and endpoint are boto3's own."""
        self._name = name
        self._region = region

    def signature(self, data: bytes) -> bytes:
        """Return the bytes of a signature over the data; raises `Unavailable`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client.sign(
                KeyId=self._name, SigningAlgorithm=_ALGORITHM, **_message(data)
            )
        except (BotoCoreError, ClientError) as error:
            raise self._failure("sign", error) from error
        return bytes(answer["Signature"])

    def verifier(self) -> Verifier:
        """Return the public half; raises `Unavailable`, `BadInput` for another kind of key."""
        return self._public

    @cached_property
    def _public(self) -> Verifier:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            der = self._client.get_public_key(KeyId=self._name)["PublicKey"]
            return public_key(serialization.load_der_public_key(der))
        except (BotoCoreError, ClientError) as error:
            raise self._failure("show its public key", error) from error
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"The KMS key {self._name} is not of the kind ECC_NIST_P256 ({error}): "
                "make one for SIGN_VERIFY and name it in REQUANT_SIGNING_KEY."
            ) from error

    @cached_property
    def _client(self) -> Any:  # boto3 makes its clients at run time
        from boto3.session import Session

        session = Session()
        return session.client("kms", region_name=self._region or session.region_name or "us-east-1")

    def _failure(self, verb: str, error: Exception) -> Unavailable:
        return Unavailable(
            f"The KMS key {self._name} could not {verb} ({error}): check the credentials, the "
            "key's policy and the region, then run again."
        )
