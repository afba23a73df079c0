"""What writers that were killed leave in a folder is removed; what living ones write is not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from infra.stores import local
from infra.stores.local import LocalStore


def test_a_file_of_a_killed_writer_is_removed_and_one_being_written_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, written, go_on = LocalStore(str(tmp_path)), threading.Event(), threading.Event()
    sync = local.os.fsync  # type: ignore[attr-defined]  # stands between writing and renaming

    def slow(handle: int) -> None:
        written.set()
        go_on.wait(10)
        sync(handle)

    monkeypatch.setattr(local.os, "fsync", slow)  # type: ignore[attr-defined]
    writer = threading.Thread(target=store.put, args=("key", b"value"))
    writer.start()
    assert written.wait(10)
    (tmp_path / ".partial" / "tmpabc").write_bytes(b"half")
    assert store.sweep() == 1
    go_on.set()
    writer.join()
    assert store.get("key") == b"value"
    assert list((tmp_path / ".partial").iterdir()) == []
