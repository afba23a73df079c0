"""Where files of traffic appear: a folder, or the objects under an S3 prefix."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Protocol

from infra.errors import BadInput
from infra.stores.port import Bucket


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file, in the version that a listing showed."""

    name: str  # below the folder or prefix
    size: int  # bytes
    modified: datetime
    version: str  # of its content: size and time of a file, the ETag of an object


class Place(Protocol):
    """Files that somebody else writes."""

    @property
    def url(self) -> str:
        """The absolute folder, or `s3://bucket/prefix`."""
        ...

    def files(self) -> Iterator[SourceFile]:
        """List every file that has content; raises `BadInput` without the folder, `Unavailable`."""
        ...

    def open(self, file: SourceFile) -> AbstractContextManager[Path]:
        """Open a local copy to read inside the block; raises `NotFound` when it is gone."""
        ...


class Folder:
    """The port `Place` on a folder, with its subfolders."""

    def __init__(self, root: Path) -> None:
        """Take an absolute `root`, which may not be there yet."""
        self._root = root

    @property
    def url(self) -> str:
        """The folder."""
        return str(self._root)

    def files(self) -> Iterator[SourceFile]:
        """List every file that has content; raises `BadInput` when the folder cannot be listed."""
        if not self._root.is_dir():
            raise BadInput(
                f"the folder {self._root} is not there: make it, or correct the path in the spec"
            )
        try:
            for folder, _, names in os.walk(self._root, onerror=_fail):
                for name in names:
                    if (file := self._seen(Path(folder) / name)) is not None:
                        yield file
        except OSError as error:
            raise BadInput(
                f"the folder {error.filename or self._root} cannot be listed ({error.strerror}): "
                "let this account read it"
            ) from error

    @contextmanager
    def open(self, file: SourceFile) -> Iterator[Path]:
        """Open the file itself."""
        yield self._root / file.name

    def _seen(self, path: Path) -> SourceFile | None:
        if path.is_symlink() and not path.resolve().is_relative_to(self._root.resolve()):
            return None  # whoever writes here could have any file of this account read
        try:
            facts = path.stat()
        except FileNotFoundError:  # moved away since it was listed, or a link to nothing
            return None
        if not stat.S_ISREG(facts.st_mode) or not facts.st_size:
            return None
        modified = datetime.fromtimestamp(facts.st_mtime, UTC)
        version = f"{facts.st_size}-{facts.st_mtime_ns}"
        return SourceFile(str(path.relative_to(self._root)), facts.st_size, modified, version)


class Objects:
    """The port `Place` on a bucket, whose objects are copied to a scratch folder one at a time."""

    def __init__(self, url: str, bucket: Bucket, scratch: Path) -> None:
        """Take `scratch`, a folder of this place's own that is made when it is needed."""
        self._url, self._bucket, self._scratch = url, bucket, scratch

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return self._url

    def files(self) -> Iterator[SourceFile]:
        """List every object that has content; raises `Unavailable`."""
        for item in self._bucket.browse():
            if item.size and not item.key.endswith("/"):
                yield SourceFile(item.key, item.size, item.modified, f"{item.size}-{item.version}")

    @contextmanager
    def open(self, file: SourceFile) -> Iterator[Path]:
        """Open a private copy, gone afterwards; raises `NotFound`, `Unavailable`."""
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        suffix = PurePosixPath(file.name).suffix  # tells the format
        path = self._scratch / f"{sha256(file.name.encode()).hexdigest()[:32]}{suffix}"
        try:
            with os.fdopen(
                os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb"
            ) as copy:
                self._bucket.copy(file.name, copy)
            yield path
        finally:
            path.unlink(missing_ok=True)


def _fail(error: OSError) -> None:
    raise error
