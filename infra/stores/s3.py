"""Objects in an S3 bucket, or in anything that speaks its protocol."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard
from urllib.parse import urlsplit

from boto3.exceptions import S3UploadFailedError
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
)

from infra.errors import AlreadyExists, BadInput, NotFound, RequantError, Unavailable
from infra.identifiers import Digest
from infra.stores.key_rules import checked, checked_prefix
from infra.stores.port import Listed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from pyarrow.fs import FileSystem

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_DENIED = {
    "401",
    "403",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
}
_CREATE_ATTEMPTS = 5
_PIECE = 1 << 20  # bytes of an object in memory at a time
_FIRST_PAUSE = 0.05  # seconds; doubles after every attempt


class S3Store:
    """The port `ObjectStore` on one bucket and prefix."""

    def __init__(
        self, url: str, *, endpoint_url: str | None = None, region: str | None = None
    ) -> None:
        """Take `s3://bucket/prefix`.

        Raises:
            BadInput: The address is anything else.
            Unavailable: The configuration is bad.
        """
        self._url, self._endpoint_url = url, endpoint_url
        self._opened_by = (url, endpoint_url, region)
        self._bucket, self._base = _bucket_and_base(url)
        try:
            session = self._session = Session()
            self._client = _client(session, endpoint_url, region, attempts=4)
            # A library's own retry would meet the first attempt's object and call it somebody
            # else's: 412.
            self._once = _client(session, endpoint_url, region, attempts=1)
        except (BotoCoreError, ValueError) as error:
            raise Unavailable(
                f"The store {url} is badly configured ({error}): check the endpoint and region."
            ) from error

    def __reduce__(self) -> tuple[object, ...]:
        """Let another process open its own clients, with its own credentials."""
        return _reopened, self._opened_by

    @property
    def url(self) -> str:
        """The address as it was given."""
        return self._url

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raises `NotFound`, `Unavailable`."""
        name = self._name(key)
        try:
            return self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read()
        except (BotoCoreError, ClientError) as error:
            raise self._failure("read", key, error) from error

    def put(self, key: str, data: bytes) -> None:
        """Write or replace; raises `Unavailable`."""
        name = self._name(key)
        try:
            self._client.put_object(Bucket=self._bucket, Key=name, Body=data)
        except (BotoCoreError, ClientError) as error:
            raise self._failure("write", key, error) from error

    def create(self, key: str, data: bytes, *, retain: timedelta | None = None) -> None:
        """Write only if absent, by `If-None-Match: *`; raises `AlreadyExists`, `Unavailable`.

        `retain` is Object Lock's retention in compliance mode; the bucket must have been made with
        Object Lock.
        """
        name = self._name(key)
        lock: dict[str, Any] = {} if retain is None else _locked_until(datetime.now(UTC) + retain)
        unsure = False  # true once an attempt may have landed without our hearing of it
        failure: Exception | None = None
        for attempt in range(_CREATE_ATTEMPTS):
            time.sleep(_FIRST_PAUSE * 2**attempt if attempt else 0)
            try:
                self._once.put_object(
                    Bucket=self._bucket, Key=name, Body=data, IfNoneMatch="*", **lock
                )
            except (BotoCoreError, ClientError) as error:
                unsure, failure = unsure or _may_have_landed(error), error
            else:
                return
            if unsure and self._stands(name, data):
                return
            if _status(failure) == 412:
                raise AlreadyExists(
                    f"The object {key} in {self._url} is already there: another writer was first; "
                    "read it."
                ) from failure
            if not _passing(failure):
                break
        raise self._failure("create", key, failure) from failure

    def put_file(self, key: str, path: Path) -> None:
        """Write or replace by a file, in parts where it is large; raises `Unavailable`."""
        name = self._name(key)
        try:
            self._client.upload_file(str(path), self._bucket, name)
        except (BotoCoreError, ClientError, S3UploadFailedError) as error:
            raise self._failure("write", key, error) from error

    def digest(self, key: str) -> Digest:
        """Return the SHA-256 of the object's bytes; raises `NotFound`, `Unavailable`."""
        counted = hashlib.sha256()
        for piece in self._pieces(key):
            counted.update(piece)
        return Digest(counted.hexdigest())

    def get_file(self, key: str, path: Path) -> None:
        """Write the object into a new file, a megabyte at a time; raises `NotFound`."""
        try:
            with path.open("xb") as file:
                self.copy(key, file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def exists(self, key: str) -> bool:
        """Tell whether the object is there; raises `Unavailable`."""
        name = self._name(key)
        try:
            self._client.head_object(Bucket=self._bucket, Key=name)
        except (BotoCoreError, ClientError) as error:
            translated = self._failure("look for", key, error)
            if isinstance(translated, NotFound):
                return False
            raise translated from error
        return True

    def list(self, prefix: str) -> Iterator[str]:
        """List the keys that start with the prefix, in lexicographic order.

        It raises `Unavailable`.
        """
        start = self._base + checked_prefix(prefix)
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=start
            ):
                for item in page.get("Contents", ()):
                    yield item["Key"][len(self._base) :]
        except (BotoCoreError, ClientError) as error:
            raise self._failure("list", prefix, error) from error

    def browse(self) -> Iterator[Listed]:
        """List every object with its size, time and ETag; raises `Unavailable`."""
        return self.listed("")

    def listed(self, prefix: str) -> Iterator[Listed]:
        """List the objects below a folder with sizes, times and ETags; raises `Unavailable`."""
        pages = self._client.get_paginator("list_objects_v2")
        start = self._base + (checked_prefix(prefix) if prefix else "")
        try:
            for page in pages.paginate(Bucket=self._bucket, Prefix=start):
                for item in page.get("Contents", ()):
                    key = item["Key"][len(self._base) :]
                    yield Listed(key, item["Size"], item["LastModified"], item.get("ETag", ""))
        except (BotoCoreError, ClientError) as error:
            raise self._failure("list", prefix, error) from error

    def copy(self, key: str, file: BinaryIO) -> None:
        """Write the object's bytes into a file, a megabyte at a time.

        It raises `NotFound` and `Unavailable`.
        """
        for piece in self._pieces(key):
            file.write(piece)

    def delete(self, key: str) -> None:
        """Remove the object; an absent key is fine; raises `Unavailable`."""
        name = self._name(key)
        try:
            self._client.delete_object(Bucket=self._bucket, Key=name)
        except (BotoCoreError, ClientError) as error:
            translated = self._failure("delete", key, error)
            if not isinstance(translated, NotFound):
                raise translated from error

    def stamp(self, key: str) -> str:
        """Return the server's entity tag, size and time; raises `NotFound`, `Unavailable`."""
        name = self._name(key)
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=name)
        except (BotoCoreError, ClientError) as error:
            raise self._failure("look for", key, error) from error
        moment = head["LastModified"].isoformat()
        return f"{head['ETag']} {head['ContentLength']} {moment} {head.get('VersionId', '')}"

    def stamps(self, prefix: str) -> Mapping[str, str]:
        """Return key to entity tag, size and time; raises `Unavailable`."""
        start = self._base + checked_prefix(prefix)
        pages = self._client.get_paginator("list_objects_v2")
        try:
            return {
                item["Key"][
                    len(self._base) :
                ]: f"{item['ETag']} {item['Size']} {item['LastModified']}"
                for page in pages.paginate(Bucket=self._bucket, Prefix=start)
                for item in page.get("Contents", ())
            }
        except (BotoCoreError, ClientError) as error:
            raise self._failure("list", prefix, error) from error

    def sweep(self) -> int:
        """Remove nothing: an object appears when its last byte has arrived."""
        return 0

    def filesystem(self) -> FileSystem:
        """Return the bucket for Arrow's readers, with this session's credentials.

        See `infra.stores.filesystem`.
        """
        from pyarrow.fs import S3FileSystem, SubTreeFileSystem

        credentials = self._session.get_credentials()
        keys = credentials.get_frozen_credentials() if credentials else None
        options: dict[str, object] = {"anonymous": True}
        if keys:
            options = {
                "access_key": keys.access_key,
                "secret_key": keys.secret_key,
                "session_token": keys.token,
            }
        if self._endpoint_url:
            parts = urlsplit(self._endpoint_url)
            options |= {
                "scheme": parts.scheme,
                "endpoint_override": parts.netloc + parts.path.rstrip("/"),
            }
        arrow = S3FileSystem(
            region=self._client.meta.region_name, connect_timeout=3, request_timeout=60, **options
        )
        return SubTreeFileSystem(f"{self._bucket}/{self._base}".rstrip("/"), arrow)

    def _pieces(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes, a megabyte at a time; raises `NotFound`, `Unavailable`."""
        name = self._name(key)
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=name)["Body"]
            yield from body.iter_chunks(_PIECE)
        except (BotoCoreError, ClientError) as error:
            raise self._failure("read", key, error) from error

    def _name(self, key: str) -> str:
        return self._base + checked(key)

    def _stands(self, name: str, data: bytes) -> bool:
        """Tell whether the very same bytes are stored; a store that cannot say counts as no."""
        try:
            return self._once.get_object(Bucket=self._bucket, Key=name)["Body"].read() == data
        except (BotoCoreError, ClientError):
            return False

    def _failure(self, verb: str, key: str, error: Exception | None) -> RequantError:
        code = _code(error) if isinstance(error, ClientError) else str(error)
        if code in _ABSENT:
            return NotFound(
                f"There is no object {key} in {self._url}: check the name, or write it first."
            )
        return Unavailable(
            f"The store {self._url} could not {verb} {key!r} ({code}): {_remedy(code, error)}."
        )


def _client(
    session: Session, endpoint_url: str | None, region: str | None, attempts: int
) -> S3Client:
    config = Config(
        retries={"total_max_attempts": attempts, "mode": "standard"},
        connect_timeout=3,
        read_timeout=60,
        max_pool_connections=32,
        # Older S3-compatible servers refuse the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": "path" if endpoint_url else "auto"
        },  # own endpoints have no name per bucket
    )
    # Every S3-compatible server accepts this region; without one botocore refuses to sign.
    return session.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=region or session.region_name or "us-east-1",
        config=config,
    )


def _locked_until(moment: datetime) -> dict[str, Any]:
    return {
        "ObjectLockMode": "COMPLIANCE",
        "ObjectLockRetainUntilDate": moment,
        "ChecksumAlgorithm": "SHA256",  # which Object Lock demands
    }


def _bucket_and_base(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if (
        parts.scheme != "s3"
        or not parts.netloc
        or parts.query
        or parts.fragment
        or {"@", ":"} & set(parts.netloc)
    ):
        raise BadInput(
            f"The store address {parts.scheme}://... is no bucket: "
            "write s3://bucket/prefix, no credentials."
        )
    base = parts.path.strip("/")
    return parts.netloc, f"{checked(base)}/" if base else ""


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _status(error: Exception | None) -> int:
    return (
        int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if _is_answer(error)
        else 0
    )


def _is_answer(error: Exception | None) -> TypeGuard[ClientError]:
    return isinstance(error, ClientError)


def _passing(error: Exception | None) -> bool:
    """Tell whether a failure is worth another attempt.

    It is when there was no answer, after a conflict between conditional writers (409), and at the
    server's own failure.
    """
    if _is_answer(error):
        return _status(error) in (408, 409, 429) or _status(error) >= 500
    return isinstance(error, (HTTPClientError, EndpointConnectionError, ConnectTimeoutError))


def _may_have_landed(error: Exception) -> bool:
    """Tell whether a write may have landed.

    It may unless the server said no, or the request was never sent.
    """
    if _is_answer(error):
        return _status(error) == 408 or _status(error) >= 500
    return isinstance(
        error, HTTPClientError
    )  # botocore's ConnectionErrors are not: those sent nothing


def _remedy(code: str, error: Exception | None) -> str:
    if code in _DENIED or isinstance(error, NoCredentialsError):
        return "check the credentials and the bucket's policy"
    if code == "NoSuchBucket":
        return "create the bucket or correct its name"
    return "check that the server is up, reachable and has free space, then run again"


def _reopened(url: str, endpoint_url: str | None, region: str | None) -> S3Store:
    return S3Store(url, endpoint_url=endpoint_url, region=region)
