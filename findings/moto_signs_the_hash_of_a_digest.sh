#!/usr/bin/env bash
# moto's KMS hashes a message of the type DIGEST once more before it signs it: a signature of a
# digest does not hold for the message, as it does on AWS. Exits with 1 when that has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'moto==5.2.5' 'boto3==1.44.5' 'cryptography==50.0.2'
AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test "$folder/venv/bin/python" - <<'PYTHON'
import hashlib
import sys

import boto3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from moto import mock_aws

MESSAGE = b"what is signed"


def holds(kind: str, message: bytes) -> bool:
    """Sign as a message of that type, and verify the signature over the message itself."""
    answer = kms.sign(
        KeyId=key, Message=message, MessageType=kind, SigningAlgorithm="ECDSA_SHA_256"
    )
    try:
        public.verify(answer["Signature"], MESSAGE, ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


with mock_aws():
    kms = boto3.client("kms", region_name="us-east-1")
    key = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    public = serialization.load_der_public_key(kms.get_public_key(KeyId=key)["PublicKey"])
    raw, digest = holds("RAW", MESSAGE), holds("DIGEST", hashlib.sha256(MESSAGE).digest())
print(f"a signature holds for the message: RAW {raw}, DIGEST {digest} (on AWS both do)")
sys.exit(0 if raw and not digest else 1)
PYTHON
