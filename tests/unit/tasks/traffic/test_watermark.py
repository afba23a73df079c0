"""Every part is read once by each consumer, however often a flow runs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.errors import AlreadyExists, BadInput, Tampered
from infra.stores.local import LocalStore
from tasks.records import Request
from tasks.traffic import write_traffic
from tasks.traffic.watermark import SNAPSHOT_EVERY, mark_read, unread

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


def serve(store: LocalStore, *hours: int) -> list[str]:
    requests = [
        Request(f"r{hour}", NOON + timedelta(hours=hour), "acme", "docs", "en", f"text {hour}") for hour in hours
    ]
    return write_traffic(store, "minilm", requests)


def read_all(store: LocalStore, consumer: str = "profiles") -> list[str]:
    found = unread(store, "minilm", consumer)
    mark_read(store, "minilm", consumer, found.parts, position=found.position)
    return list(found.parts)


def test_what_was_marked_is_not_read_again_and_a_late_part_of_an_older_hour_is(store: LocalStore) -> None:
    first = serve(store, 0, 1, 5)
    assert read_all(store) == first
    assert read_all(store) == []
    late = serve(store, 2)
    assert read_all(store) == late
    assert read_all(store) == []


def test_consumers_and_models_do_not_see_each_others_marks(store: LocalStore) -> None:
    parts = serve(store, 0)
    assert read_all(store, "profiles") == parts
    assert read_all(store, "drift") == parts
    assert unread(store, "minilm-2", "profiles").parts == ()


def test_what_was_not_marked_comes_again(store: LocalStore) -> None:
    parts = serve(store, 0, 1)
    found = unread(store, "minilm", "profiles")
    mark_read(store, "minilm", "profiles", found.parts[:1], position=found.position)
    assert list(unread(store, "minilm", "profiles").parts) == parts[1:]


def test_of_runs_at_the_same_time_one_commits_and_the_others_are_told(store: LocalStore) -> None:
    serve(store, 0)
    found = [unread(store, "minilm", "profiles") for _ in range(8)]

    def commit(place: int) -> bool:
        try:
            mark_read(store, "minilm", "profiles", found[place].parts, position=found[place].position)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(commit, range(8))) == 1
    assert unread(store, "minilm", "profiles").parts == ()


def test_the_log_is_summed_up_and_a_writer_from_before_still_fails(store: LocalStore) -> None:
    stale = unread(store, "minilm", "profiles")
    for hour in range(2 * SNAPSHOT_EVERY + 3):
        serve(store, hour)
        read_all(store)
    entries = {key: len(store.get(key)) for key in store.list("watermarks/minilm/profiles/")}
    held = {int(key.rpartition("/")[2]): size for key, size in entries.items() if size}
    assert sorted(held) == [64, 65, 66, 67]
    assert held[64] - 64 * 16 < 120  # 16 bytes a part, and a line
    assert unread(store, "minilm", "profiles").parts == ()
    (part,) = serve(store, 500)
    with pytest.raises(AlreadyExists):
        mark_read(store, "minilm", "profiles", [part], position=stale.position)
    assert unread(store, "minilm", "profiles").parts == (part,)


def test_parts_that_are_no_longer_stored_leave_the_summary(store: LocalStore) -> None:
    for hour in range(SNAPSHOT_EVERY - 1):
        (key,) = serve(store, hour)
        read_all(store)
        store.delete(key)
    serve(store, 100)
    read_all(store)
    assert len(store.get(f"watermarks/minilm/profiles/{SNAPSHOT_EVERY:08d}").partition(b"\n")[2]) == 16


@pytest.mark.parametrize(
    ("damage", "error", "sentence"),
    [
        (lambda data: data[:-1], Tampered, "does not match its digest"),
        (lambda data: b"{}" + data, Tampered, "is damaged"),
        (lambda data: data.replace(b'"version": 1', b'"version": 2'), BadInput, "has version 2, not 1"),
    ],
)
def test_a_damaged_log_is_not_believed(
    store: LocalStore, damage: Callable[[bytes], bytes], error: type[Exception], sentence: str
) -> None:
    serve(store, 0)
    read_all(store)
    key = "watermarks/minilm/profiles/00000001"
    store.put(key, damage(store.get(key)))
    with pytest.raises(error, match=sentence):
        unread(store, "minilm", "profiles")


def test_a_gap_in_the_log_and_a_bad_name_are_refused(store: LocalStore) -> None:
    for hour in range(2):
        serve(store, hour)
        read_all(store)
    store.delete("watermarks/minilm/profiles/00000001")
    with pytest.raises(Tampered, match="lacks an entry"):
        unread(store, "minilm", "profiles")
    with pytest.raises(BadInput, match="the consumer is 'A/B'"):
        unread(store, "minilm", "A/B")
