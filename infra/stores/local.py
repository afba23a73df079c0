"""Objects as files in a folder: the store of a laptop, of tests, and of one host."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from infra.errors import AlreadyExists, BadInput, NotFound, RequantError, Unavailable
from infra.identifiers import Digest
from infra.stores.key_rules import checked, checked_prefix
from infra.stores.port import Listed

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_PARTIAL = ".partial"  # unfinished writes live here, outside every key
_PIECE = 1 << 24  # bytes of a file in memory at a time
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStore:
    """The port `ObjectStore` on a folder, which is created on first write."""

    def __init__(self, url: str) -> None:
        """Take `file:///absolute/path` or a plain path.

        Raises:
            BadInput: The address is anything else.
        """
        self._url = url
        self._root = _folder(url)

    @property
    def url(self) -> str:
        """The folder as it was given."""
        return self._url

    def get(self, key: str) -> bytes:
        """Return the file's bytes.

        Raises:
            NotFound: There is no such file.
            Unavailable: The disk does not answer.
        """
        with self._read(key) as file:
            return file.read()

    def put(self, key: str, data: bytes) -> None:
        """Write or replace by renaming a finished file over the old one; raises `Unavailable`."""
        path = self._path(key)
        try:
            with self._finished(path, data) as partial:
                partial.replace(path)
        except OSError as error:
            raise self._failure("write", key, error) from error

    def create(self, key: str, data: bytes, *, retain: timedelta | None = None) -> None:
        """Write by linking a finished file to a free name; a folder retains nothing.

        It raises `AlreadyExists` and `Unavailable`.
        """
        path = self._path(key)
        try:
            with self._finished(path, data) as partial:
                os.link(partial, path)  # unlike O_EXCL, the name never shows incomplete content
        except FileExistsError as error:
            raise AlreadyExists(
                f"The object {key} in {self._url} is already there: another writer was first; "
                "read it."
            ) from error
        except OSError as error:
            raise self._failure("create", key, error) from error

    def put_file(self, key: str, path: Path) -> None:
        """Give a finished file a second name, or copy it from another file system.

        It raises `Unavailable`.
        """
        target = self._path(key)
        try:
            with self._finished(target, path) as partial:
                partial.replace(target)
        except OSError as error:
            raise self._failure("write", key, error) from error

    def get_file(self, key: str, path: Path) -> None:
        """Give the object a second name, or copy it to another file system; raises `NotFound`."""
        try:
            _linked(self._path(key), path)
        except _ABSENT as error:
            raise NotFound(
                f"There is no object {key} in {self._url}: check the name, or write it first."
            ) from error

    def digest(self, key: str) -> Digest:
        """Return the SHA-256 of the file's bytes; raises `NotFound`, `Unavailable`."""
        with self._read(key) as file:
            return Digest(hashlib.file_digest(file, "sha256").hexdigest())

    def exists(self, key: str) -> bool:
        """Tell whether the file is there; raises `Unavailable`."""
        try:
            return self._path(key).is_file()
        except OSError as error:
            raise self._failure("look for", key, error) from error

    def list(self, prefix: str) -> Iterator[str]:
        """List the keys that start with the prefix, in lexicographic order.

        It raises `Unavailable`.
        """
        folder = checked_prefix(prefix).rpartition("/")[0]
        try:
            yield from _keys(self._root / folder, f"{folder}/" if folder else "", prefix)
        except OSError as error:
            raise self._failure("list", prefix, error) from error

    def listed(self, prefix: str) -> Iterator[Listed]:
        """List the files below a folder with sizes and times; raises `Unavailable`."""
        for key in self.list(prefix):
            try:
                status = self._path(key).stat()
            except _ABSENT:  # removed meanwhile
                continue
            modified = datetime.fromtimestamp(status.st_mtime, UTC)
            yield Listed(key, status.st_size, modified, _stamp(status))

    def delete(self, key: str) -> None:
        """Remove the file if it is there; raises `Unavailable`."""
        try:
            self._path(key).unlink()
        except _ABSENT:
            return
        except OSError as error:
            raise self._failure("delete", key, error) from error

    def stamp(self, key: str) -> str:
        """Return the file's size, times and number; raises `NotFound`, `Unavailable`.

        The change time is the file system's own: no program sets it back.
        """
        try:
            status = self._path(key).stat()
        except _ABSENT as error:
            raise NotFound(
                f"There is no object {key} in {self._url}: check the name, or write it first."
            ) from error
        except OSError as error:
            raise self._failure("look for", key, error) from error
        return _stamp(status)

    def stamps(self, prefix: str) -> Mapping[str, str]:
        """Return key to size, times and number of the files of a folder; raises `Unavailable`."""
        base = checked_prefix(prefix)
        try:
            with os.scandir(self._root / base) as files:
                return {
                    base + file.name: _stamp(file.stat()) for file in files if not file.is_dir()
                }
        except _ABSENT:
            return {}
        except OSError as error:
            raise self._failure("list", prefix, error) from error

    def sweep(self) -> int:
        """Remove the unfinished files of writers that were killed; raises `Unavailable`.

        A writer holds a lock on its file, which the system lets go when the process ends.
        """
        try:
            return sum(map(_removed, (self._root / _PARTIAL).glob("*")))
        except OSError as error:
            raise self._failure("sweep", _PARTIAL, error) from error

    def filesystem(self) -> FileSystem:
        """Return the folder for Arrow's readers; see `infra.stores.filesystem`."""
        from pyarrow.fs import (
            LocalFileSystem,
            SubTreeFileSystem,
        )  # a tenth of a second, for traffic alone

        return SubTreeFileSystem(str(self._root), LocalFileSystem())

    @contextlib.contextmanager
    def _read(self, key: str) -> Iterator[BufferedReader]:
        """Open a file; raises `NotFound`, `Unavailable`."""
        try:
            with self._path(key).open("rb") as file:
                yield file
        except _ABSENT as error:
            raise NotFound(
                f"There is no object {key} in {self._url}: check the name, or write it first."
            ) from error
        except OSError as error:
            raise self._failure("read", key, error) from error

    def _path(self, key: str) -> Path:
        return self._root / checked(key)

    @contextlib.contextmanager
    def _finished(self, path: Path, data: bytes | Path) -> Iterator[Path]:
        """Write a synced file with the data, or a file's, on the same file system, gone afterwards.

        The folder of `path` is synced.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        (self._root / _PARTIAL).mkdir(exist_ok=True)
        handle, partial = _locked(self._root / _PARTIAL)
        try:
            with os.fdopen(handle, "wb") as file:
                if isinstance(data, Path):
                    partial.unlink()
                    _linked(data, partial)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
                yield partial
            _sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)

    def _failure(self, verb: str, key: str, error: OSError) -> RequantError:
        return Unavailable(
            f"The store {self._url} could not {verb} {key!r} ({error.strerror}): {_remedy(error)}."
        )


def _folder(url: str) -> Path:
    parts = urlsplit(url)
    if not url or (parts.scheme and parts.scheme != "file"):
        raise BadInput(
            f"The store address {url!r} is not a folder: "
            "write file:///absolute/path or a plain path."
        )
    if not parts.scheme:
        return Path(url).expanduser().absolute()
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise BadInput(
            f"The store address {url!r} names a host or a relative path: "
            "write file:///absolute/path."
        )
    return Path(unquote(parts.path))


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _linked(source: Path, target: Path) -> None:
    """Make a new name of a file; where that cannot be, a synced copy."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        with source.open("rb") as original, target.open("xb") as copy:
            shutil.copyfileobj(original, copy, _PIECE)
            copy.flush()
            os.fsync(copy.fileno())


def _locked(folder: Path) -> tuple[int, Path]:
    """Make a new file under an exclusive lock, and return its descriptor and path."""
    while True:
        handle, name = tempfile.mkstemp(dir=folder)
        with contextlib.suppress(OSError):  # a file system without locks is never swept either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # else a sweep came between the two
            return handle, Path(name)
        os.close(handle)


def _removed(partial: Path) -> bool:
    """Remove an unfinished file unless its writer lives; return whether it was removed."""
    try:
        with partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()
    except OSError:  # somebody is writing it, or was faster
        return False
    return True


def _keys(folder: Path, base: str, prefix: str) -> Iterator[str]:
    """List the keys under the folder in the order of the whole key: "a-b/x" comes before "a/x"."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name + "/" if entry.is_dir() else entry.name for entry in entries)
    except _ABSENT:
        return
    for name in names:
        key = base + name
        if key == f"{_PARTIAL}/" or not (key.startswith(prefix) or prefix.startswith(key)):
            continue
        if name.endswith("/"):
            yield from _keys(folder / name, key, prefix)
        elif key.startswith(prefix):
            yield key


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space or raise the limit there, or set another store, then run again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP):
        return "choose a folder that this account may write, on a file system with hard links"
    if isinstance(error, (FileExistsError, *_ABSENT)):
        return (
            "part of the path is a file where a folder must be, or the other way round; "
            "choose another key or store"
        )
    return "check the disk and the folder, then run again"
