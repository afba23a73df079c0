"""Every store can be read in ranges, which scans rest on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from infra.errors import NotFound
from infra.stores import ObjectStore
from infra.stores.filesystem import open_filesystem
from tasks.records import Request
from tasks.traffic.storage.parts import write_traffic
from tasks.traffic.storage.scan import scan

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_range_of_an_object_can_be_read(store: ObjectStore) -> None:
    store.put("a/b.bin", b"0123456789")
    with open_filesystem(store).open_input_file("a/b.bin") as file:
        file.seek(3)
        assert file.read(4) == b"3456"
        assert file.size() == 10


def test_a_missing_object_is_missing(store: ObjectStore) -> None:
    store.put("a/b.bin", b"1")
    with pytest.raises(FileNotFoundError):
        open_filesystem(store).open_input_file("a/none.bin")


def test_traffic_is_scanned_between_two_times(store: ObjectStore) -> None:
    requests = [
        Request(f"r{n}", NOON + timedelta(hours=n), "acme", "docs", "en", f"text {n}")
        for n in range(4)
    ]
    write_traffic(store, "minilm", requests)
    batches = scan(store, "minilm", NOON, NOON + timedelta(hours=2), ["request_id", "text"])
    assert [row for batch in batches for row in batch.to_pylist()] == [
        {"request_id": f"r{n}", "text": f"text {n}"} for n in (1, 2)
    ]


def test_a_deleted_part_is_named(store: ObjectStore) -> None:
    keys = write_traffic(
        store,
        "minilm",
        [Request(f"r{n}", NOON + timedelta(hours=n), "acme", "docs", "en", "x") for n in range(2)],
    )
    batches = scan(store, "minilm", None, None, ["request_id"])
    next(batches)
    store.delete(keys[1])
    with pytest.raises(NotFound, match="between listing and reading"):
        next(batches)
