"""What a run opens is opened once, and nobody else's."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra import run_scope as scopes
from infra.chain import Chain
from infra.errors import AlreadyExists, NotFound
from infra.run_scope import once, read_once, run_scope
from infra.stores.local import LocalStore


class CountingStore(LocalStore):
    """A folder that counts how often each key is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.reads: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.reads[key] += 1
        return super().get(key)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path)


def numbering() -> Callable[[], int]:
    numbers = iter(range(100))
    return lambda: next(numbers)


def test_outside_of_a_run_a_thing_is_opened_each_time() -> None:
    opening = numbering()
    assert [once("thing", "a", open_it=opening) for _ in range(2)] == [0, 1]


def test_a_run_opens_a_thing_once_by_kind_and_name() -> None:
    opening = numbering()
    with run_scope():
        assert [once("thing", name, open_it=opening) for name in "aba"] == [0, 1, 0]
        assert once("other", "a", open_it=opening) == 2


def test_a_run_inside_a_run_shares_what_it_opened_and_ends_nothing() -> None:
    opening = numbering()
    with run_scope():
        with run_scope():
            once("thing", open_it=opening)
        assert once("thing", open_it=opening) == 0


def test_the_next_run_opens_anew_also_after_a_failure() -> None:
    opening = numbering()
    with contextlib.suppress(NotFound), run_scope():
        once("thing", open_it=opening)
        raise NotFound("gone")
    with run_scope():
        assert once("thing", open_it=opening) == 1


def test_what_could_not_be_opened_is_tried_again(store: CountingStore) -> None:
    with run_scope():
        with pytest.raises(NotFound):
            read_once(store, "a")
        store.put("a", b"there")
        assert read_once(store, "a") == b"there"


def test_a_thread_that_a_run_starts_has_nothing_of_it() -> None:
    opening = numbering()
    with run_scope(), ThreadPoolExecutor(1) as pool:
        once("thing", open_it=opening)
        assert pool.submit(once, "thing", open_it=opening).result() == 1


def test_an_object_is_read_once_in_a_run(store: CountingStore) -> None:
    store.put("a", b"1")
    with run_scope():
        assert [read_once(store, "a") for _ in range(3)] == [b"1"] * 3
    read_once(store, "a")
    assert store.reads["a"] == 2


def test_stores_do_not_share_a_key(tmp_path: Path) -> None:
    stores = [CountingStore(tmp_path / name) for name in ("one", "two")]
    for number, store in enumerate(stores):
        store.put("a", str(number).encode())
    with run_scope():
        assert [read_once(store, "a") for store in stores] == [b"0", b"1"]


def test_objects_beyond_what_a_run_may_keep_are_read_again(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scopes, "MOST_BYTES", 10)
    store.put("small", b"12345")
    store.put("large", b"1234567")
    with run_scope():
        for key in ("small", "large", "small", "large"):
            read_once(store, key)
    assert store.reads == {"small": 1, "large": 2}


def test_a_log_that_keeps_its_entries_reads_none_twice_and_sees_what_others_append(
    store: CountingStore,
) -> None:
    log, other = Chain(store, "log", keep=True), Chain(store, "log")
    log.append({"entry": 1})
    other.append({"entry": 2})
    assert [link.body["entry"] for link in log.read()] == [1, 2]
    store.reads.clear()
    with pytest.raises(AlreadyExists):
        log.append({"entry": 2}, expect=1)
    log.append({"entry": 3}, expect=2)
    assert [link.body["entry"] for link in log.read()] == [1, 2, 3]
    assert not store.reads
