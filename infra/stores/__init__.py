"""Object stores: one port (`infra.stores.port`), a local folder and S3."""

from __future__ import annotations

from urllib.parse import urlsplit

from infra.errors import BadInput
from infra.stores.port import Bucket, ObjectStore


def open_store(
    url: str, *, endpoint_url: str | None = None, region: str | None = None
) -> ObjectStore:
    """Open the store at `file:///path`, a plain path or `s3://bucket/prefix`.

    `endpoint_url` and `region` are for S3 alone; credentials come from the usual AWS chain.

    Raises:
        BadInput: The address is any other.
    """
    scheme = urlsplit(url).scheme
    if scheme == "s3":
        # boto3 takes a third of a second to import; a laptop needs none of it.
        from infra.stores.s3 import S3Store

        return S3Store(url, endpoint_url=endpoint_url, region=region)
    if scheme in ("", "file"):
        from infra.stores.local import LocalStore

        return LocalStore(url)
    raise BadInput(
        f"The store address {url!r} starts with {scheme!r}: "
        "use s3://bucket/prefix, file:///path or a path."
    )


def open_bucket(url: str, *, endpoint_url: str | None, region: str | None) -> Bucket:
    """Open the objects under `s3://bucket/prefix`.

    Raises:
        BadInput: The address is any other.
    """
    from infra.stores.s3 import S3Store  # boto3 takes a third of a second to import

    return S3Store(url, endpoint_url=endpoint_url, region=region)


__all__ = ["ObjectStore", "open_bucket", "open_store"]
