"""Objects that others wrote: what lies in a bucket, in which version, copied out piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Listed:
    """One object as a listing shows it."""

    key: str
    size: int  # bytes
    modified: datetime
    version: str  # changes with the content


class Bucket(Protocol):
    """A place whose objects can be listed with their versions and copied out in bounded memory."""

    def browse(self) -> Iterator[Listed]:
        """Every object, in the order of the keys; raises `Unavailable`."""
        ...

    def copy(self, key: str, file: BinaryIO) -> None:
        """Write an object's bytes into an open file; raises `NotFound`, `BadInput`, `Unavailable`."""
        ...


def open_bucket(url: str, *, endpoint_url: str | None, region: str | None) -> Bucket:
    """The objects under `s3://bucket/prefix`; raises `BadInput` for any other address."""
    from infra.stores.s3 import S3Store  # boto3 takes a third of a second to import

    return S3Store(url, endpoint_url=endpoint_url, region=region)
