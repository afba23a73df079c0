"""What every object store can do; each adapter passes `tests/contract/test_stores.py`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Protocol

from infra.identifiers import Digest


@dataclass(frozen=True, slots=True)
class Listed:
    """One object as a listing shows it."""

    key: str
    size: int  # bytes
    modified: datetime
    version: str  # changes with the content


class ObjectStore(Protocol):
    """Flat keys to immutable or replaceable bytes.

    A key is such as "traffic/minilm/date=2026-01-01/hour=03/x.parquet": relative, with "/" and
    never "..". All methods raise `infra.errors.Unavailable` when the store cannot answer (or its
    disk is full), and leave no partial object behind.
    """

    @property
    def url(self) -> str:
        """Where the store lives, as given to `open_store` (no credentials)."""
        ...

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raises `NotFound`."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write or replace, atomically: a reader sees the old bytes or the new ones."""
        ...

    def create(self, key: str, data: bytes, *, retain: timedelta | None = None) -> None:
        """Write only if absent.

        `retain` asks that nobody deletes or replaces the object for so long; a store that cannot
        promise it, such as a folder, writes all the same.

        Exactly one of many concurrent writers wins, the others get `AlreadyExists`. It is safe to
        retry after a time-out: finding the very same bytes there counts as success only when the
        writer cannot know whether its own write landed (S3 time-out), never in a plain race.
        """
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Write or replace an object by a finished file, in bounded memory.

        Nobody may change the file afterwards: a store of files may keep it under a second name.
        """
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Make a new file of an object, in bounded memory; nobody may change it.

        Raises `NotFound`, and `OSError` where the file cannot be written.
        """
        ...

    def digest(self, key: str) -> Digest:
        """Return the SHA-256 of the object's bytes, read in bounded memory; raises `NotFound`."""
        ...

    def exists(self, key: str) -> bool:
        """Tell whether `get` would find the key."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """List the keys that start with `prefix`, in lexicographic order."""
        ...

    def listed(self, prefix: str) -> Iterator[Listed]:
        """List the objects below a folder with sizes and times; `prefix` ends with "/"."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; an absent key is fine."""
        ...

    def stamp(self, key: str) -> str:
        """Return what differs once the object's bytes were written anew; raises `NotFound`.

        Nothing is read: size and times of a file, the tag that a server made of the bytes.
        """
        ...

    def stamps(self, prefix: str) -> Mapping[str, str]:
        """Return key to stamp of everything below a folder, by listing alone.

        These stamps compare with each other, not with those of `stamp`. `prefix` ends with "/".
        """
        ...

    def sweep(self) -> int:
        """Remove what killed writers left unfinished, and return how many objects that was."""
        ...


class Bucket(Protocol):
    """A place whose objects can be listed with their versions and copied out in bounded memory."""

    def browse(self) -> Iterator[Listed]:
        """List every object, in the order of the keys; raises `Unavailable`."""
        ...

    def copy(self, key: str, file: BinaryIO) -> None:
        """Write an object's bytes into an open file.

        It raises `NotFound`, `BadInput` and `Unavailable`.
        """
        ...
