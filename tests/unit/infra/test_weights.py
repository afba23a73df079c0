"""Weights in files: written once, mapped, verified before use, fetched where absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from infra.errors import NotFound, Tampered, Unavailable
from infra.stores.local import LocalStore
from infra.weights.folder import WeightFolder
from infra.weights.naming import weight_file

NUMBERS = np.arange(4096, dtype=np.float32).reshape(64, 64)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


@pytest.fixture
def folder(tmp_path: Path, store: LocalStore) -> WeightFolder:
    return WeightFolder(tmp_path / "cache", store)


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, np.int8, ml_dtypes.bfloat16, ml_dtypes.int4]
)
def test_numbers_of_every_type_come_back(folder: WeightFolder, dtype: type) -> None:
    numbers = (NUMBERS % 7).astype(dtype)
    read = folder.values(folder.tensor(numbers, "w"))
    assert read.dtype == numbers.dtype
    np.testing.assert_array_equal(read.astype(np.float32), numbers.astype(np.float32))


def test_the_same_numbers_are_one_file(folder: WeightFolder) -> None:
    assert folder.keep(NUMBERS) == folder.keep(NUMBERS.copy())
    assert folder.keep(NUMBERS.T) != folder.keep(NUMBERS)
    assert len(list(folder.folder.iterdir())) == 2


def test_another_workspace_fetches_what_was_published(
    folder: WeightFolder, store: LocalStore, tmp_path: Path
) -> None:
    tensor = folder.tensor(NUMBERS, "w")
    elsewhere = WeightFolder(tmp_path / "elsewhere", store)
    with pytest.raises(NotFound):
        elsewhere.values(tensor)
    folder.publish([weight_file(tensor)])
    np.testing.assert_array_equal(elsewhere.values(tensor), NUMBERS)


def test_changed_bytes_are_not_loaded(
    folder: WeightFolder, store: LocalStore, tmp_path: Path
) -> None:
    tensor = folder.tensor(NUMBERS, "w")
    path = folder.path(weight_file(tensor))
    changed = bytearray(path.read_bytes())
    changed[5] ^= 1
    path.unlink()
    path.write_bytes(changed)
    for reader in (folder, WeightFolder(folder.folder, store)):
        with pytest.raises(Tampered, match="differ from their digest"):
            reader.values(tensor)


def test_a_name_that_is_no_digest_is_not_followed(folder: WeightFolder) -> None:
    tensor = folder.tensor(NUMBERS, "w")
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = "sha256-../../etc/passwd"
    with pytest.raises(Tampered, match="no file of a digest"):
        folder.values(tensor)


def test_a_full_disk_leaves_nothing_half_and_says_what_to_do(
    folder: WeightFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = folder.keep(NUMBERS)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match=r"No space left on device.*free space there"):
        folder.keep(NUMBERS + 1)
    assert [path.name for path in folder.folder.iterdir()] == [before]
