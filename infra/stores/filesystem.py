"""A store seen as an Arrow file system: a Parquet reader fetches only the ranges it needs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pyarrow.fs import FileSystem

from infra.errors import BadInput
from infra.stores.port import ObjectStore


@runtime_checkable
class Ranged(Protocol):
    """A store that can be read in ranges."""

    def filesystem(self) -> FileSystem:
        """Return a file system whose paths are the keys.

        Nothing is cached, and credentials are those of this moment.
        """
        ...


def open_filesystem(store: ObjectStore) -> FileSystem:
    """Return the store's file system.

    Raises:
        BadInput: The store has none.
    """
    if not isinstance(store, Ranged):
        raise BadInput(f"The store {store.url} cannot be read in ranges: use a folder or S3.")
    return store.filesystem()
