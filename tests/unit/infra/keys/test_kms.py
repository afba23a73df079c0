"""A key that never leaves a key management service signs releases, which load without it."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from infra.errors import BadInput, Unavailable
from infra.releases import write_release
from infra.settings import Settings


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")


def made(spec: str) -> str:
    client = boto3.client("kms", region_name="us-east-1")
    key = client.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")
    return str(key["KeyMetadata"]["KeyId"])


def test_a_kms_key_signs_and_whoever_serves_needs_its_public_key_alone(tmp_path: Path) -> None:
    with mock_aws():
        chosen = Settings(workspace=tmp_path / "w", signing_key=f"awskms:{made('ECC_NIST_P256')}")
        release = write_release(chosen.store(), "m", {"g": b"x"}, {}, chosen.signer())
    assert release.signed_by is not None
    # Without the service: the public half was kept when the key was first used.
    assert chosen.release("m", release.digest).signed_by == release.signed_by
    assert chosen.store().exists(f"releases/m/{release.digest}/model.sig")


def test_a_key_that_is_not_there_or_of_another_kind_is_named(tmp_path: Path) -> None:
    with mock_aws():
        other = Settings(workspace=tmp_path / "w", signing_key=f"awskms:{made('RSA_2048')}")
        with pytest.raises(BadInput, match="ECC_NIST_P256"):
            other.signer()
        gone = Settings(workspace=tmp_path / "w", signing_key="awskms:no-such-key")
        with pytest.raises(Unavailable, match="no-such-key"):
            gone.signer()
