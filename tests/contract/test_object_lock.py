"""Entries of a ledger under Object Lock: nobody deletes them, and the chain is as before."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import boto3
import pytest
from botocore.exceptions import ClientError

from infra.chain import Chain
from infra.errors import AlreadyExists, Unavailable
from infra.stores import open_store
from tests.contract.conftest import S3Server

DAY = timedelta(days=1)


def test_an_entry_under_retention_cannot_be_deleted_or_replaced(
    moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto.admit(monkeypatch)
    client = boto3.client("s3", endpoint_url=moto.endpoint, region_name="us-east-1")
    bucket = f"locked-{uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    store = open_store(f"s3://{bucket}/prefix", endpoint_url=moto.endpoint)
    log = Chain(store, "ledger/m", retain=DAY)
    log.append({"champion": "1"})
    log.append({"champion": "2"}, expect=1)
    with pytest.raises(AlreadyExists):
        store.create("ledger/m/00000002.json", b"{}", retain=DAY)
    assert [link.body["champion"] for link in Chain(store, "ledger/m").read()] == ["1", "2"]
    key = "prefix/ledger/m/00000002.json"
    (version,) = client.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])
    store.delete("ledger/m/00000002.json")  # a marker over it, which hides and destroys nothing
    still = client.get_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])
    assert b'"champion":"2"' in still["Body"].read()


def test_a_bucket_without_object_lock_refuses_and_nothing_is_stored(
    moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto.admit(monkeypatch)
    store = open_store(f"s3://{moto.new_bucket()}", endpoint_url=moto.endpoint)
    with pytest.raises(Unavailable):
        Chain(store, "ledger/m", retain=DAY).append({"champion": "1"})
    assert list(store.list("")) == []
