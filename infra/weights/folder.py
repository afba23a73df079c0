"""The files of weights on this machine: written once, mapped into memory, fetched when absent."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from infra.errors import Tampered, Unavailable
from infra.stores import layout
from infra.weights.going import removed_of
from infra.weights.naming import PREFIX, beside, file_name, tensors_beside, weight_file

if TYPE_CHECKING:
    from infra.stores.port import ObjectStore

_PACKED = frozenset(
    TensorProto.DataType.Value(name) for name in ("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1")
)
"""Types of less than a byte, which numpy has no view of."""
_PARTIAL, _ABANDONED_S = ".partial-", 3600.0
_FRESH_S = 1200.0
_PIECE = 1 << 24  # bytes that are hashed and written at a time


class WeightFolder:
    """Weights by digest in one folder, which all graphs of a workspace share.

    A file is written under another name, synced and renamed: one that bears its digest is whole. It
    is read again before its first use in a process, and when its size or time changed.
    """

    def __init__(self, folder: Path, store: ObjectStore) -> None:
        """Take the folder, which is made when it is needed, and where absent files come from."""
        self._folder = folder
        self._store = store
        self._swept = False
        self._verified: dict[str, tuple[int, int, int]] = {}

    @property
    def folder(self) -> Path:
        """The folder, where runtimes look for what a graph names."""
        return self._folder

    def keep(self, values: NDArray[np.generic], before: bytes = b"") -> str:
        """Write an array's bytes, in C order, and return the file's name.

        `before` is written before them.

        The same bytes are written once. Raises `Unavailable` where the disk cannot hold them.
        """
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        digest = hashlib.sha256(before)
        digest.update(flat.data)
        name = file_name(digest.hexdigest())
        path = self._folder / name
        try:
            if not (path.is_file() and path.stat().st_size == len(before) + flat.size):
                self._write(path, before, flat)
            elif time.time() - path.stat().st_mtime > _FRESH_S:
                path.touch()  # a collection removes what is old and not named yet
            self._verified[name] = _stamp(path)
        except OSError as error:
            raise self._unwritten(flat.size, error) from error
        return name

    def tensor(self, values: NDArray[np.generic], name: str) -> TensorProto:
        """Return a constant of that name whose numbers are kept in a file."""
        data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        if data_type in _PACKED:
            raw = numpy_helper.from_array(values, name).raw_data
            file = self.keep(np.frombuffer(raw, np.uint8))
            return beside(name, data_type, values.shape, file, len(raw))
        return beside(name, data_type, values.shape, self.keep(values), values.nbytes)

    def values(self, tensor: TensorProto) -> NDArray[np.generic]:
        """Return a constant's numbers, mapped from its file: pages are read as they are used.

        Raises `NotFound`, `Tampered`.
        """
        path, shape = self.path(weight_file(tensor)), tuple(tensor.dims)
        if tensor.data_type in _PACKED:
            inside = TensorProto(data_type=tensor.data_type, dims=shape)
            inside.raw_data = path.read_bytes()
            return np.asarray(numpy_helper.to_array(inside))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if path.stat().st_size != int(np.prod(shape)) * dtype.itemsize:
            raise Tampered(
                f"The weight {tensor.name} has not the size of its file {path.name}, so it was not "
                "loaded: write the release again from its source, or roll back."
            )
        return np.asarray(np.memmap(path, dtype, "r", shape=shape))

    def path(self, name: str) -> Path:
        """Return where a file lies here, fetched where it is absent and verified by its digest.

        Raises `NotFound`, `Tampered`, `Unavailable`.
        """
        path = self._folder / name
        if not path.is_file():
            self._fetch(name, path)
        stamp = _stamp(path)
        if self._verified.get(name) != stamp:
            _require_digest(path)
            self._verified[name] = stamp
        return path

    def prepare(self, names: Iterable[str]) -> Path:
        """Make sure that files are here and whole, and return their folder; raises as `path`."""
        for name in names:
            self.path(name)
        return self._folder

    def publish(self, names: Iterable[str]) -> None:
        """Write files to the object store, as far as they are not there; raises `Unavailable`."""
        for name in names:
            key = layout.weight(name)
            if not self._store.exists(key):
                self._store.put_file(key, self.path(name))

    @contextmanager
    def published(self, names: Iterable[str]) -> Iterator[None]:
        """Publish files around the writing of a graph that names them; raises `Unavailable`.

        What a collection removed before it saw the graph is written again.
        """
        digests = {name.removeprefix(PREFIX) for name in names}
        self.publish(map(file_name, sorted(digests)))
        yield
        self.publish(map(file_name, sorted(removed_of(self._store, digests))))

    def require_stored(self, name: str) -> None:
        """Read a file anew from the object store, and check its digest.

        Raises `NotFound`, `Tampered`, `Unavailable`.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            copy = Path(folder) / name
            self._store.get_file(layout.weight(name), copy)
            _require_digest(copy)

    def inside(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a copy of a graph that holds its weights itself."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for item in tensors_beside(copy):
            data = self.path(weight_file(item)).read_bytes()
            item.ClearField("external_data")
            item.ClearField("data_location")
            item.raw_data = data
        return copy

    def _write(self, path: Path, before: bytes, flat: NDArray[np.uint8]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._sweep()
        handle, partial = tempfile.mkstemp(dir=self._folder, prefix=_PARTIAL)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(before)
                for start in range(0, flat.size, _PIECE):
                    file.write(flat[start : start + _PIECE].data)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what killed writers left unfinished, once a process; a live one is younger."""
        self._swept = True
        for path in self._folder.glob(f"{_PARTIAL}*"):
            if path.is_file() and time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)

    def _fetch(self, name: str, path: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=_PARTIAL) as scratch:
            partial = Path(scratch) / name
            try:
                self._store.get_file(layout.weight(name), partial)
                partial.replace(path)
            except OSError as error:
                raise self._unwritten(0, error) from error

    def _unwritten(self, size: int, error: OSError) -> Unavailable:
        return Unavailable(
            f"{size / 1e9:.2f} GB of weights could not be written to {self._folder} "
            f"({error.strerror}): free space there, or set another workspace, then run again; what "
            "was written before is used again"
        )


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _require_digest(path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if file_name(digest) != path.name:
        raise Tampered(
            f"The weights in {path} differ from their digest and were not loaded: remove the file, "
            "and write the release again from its source, or roll back."
        )
