"""The append-only log: nothing is lost, nothing changes unnoticed, and the fence holds."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.canonical import Json, canonical, sha256
from infra.chain import Chain
from infra.errors import AlreadyExists, BadInput, NotFound, Tampered
from infra.stores.local import LocalStore
from infra.stores.prefix_cache import PrefixCache


class MemoryStore:
    """The port `ObjectStore` in a dict."""

    url = "memory:"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key]

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def create(self, key: str, data: bytes) -> None:
        with self._lock:
            if key in self.objects:
                raise AlreadyExists(key)
            self.objects[key] = data

    def exists(self, key: str) -> bool:
        return key in self.objects

    def list(self, prefix: str) -> Iterator[str]:
        return iter(sorted(key for key in self.objects if key.startswith(prefix)))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def stamp(self, key: str) -> str:
        return sha256(self.get(key))

    def stamps(self, prefix: str) -> dict[str, str]:
        return {key: sha256(self.objects[key]) for key in self.list(prefix)}

    def sweep(self) -> int:
        return 0


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def filled(store: MemoryStore, count: int) -> Chain:
    chain = Chain(store, "ledger/m")
    for number in range(count):
        chain.append({"n": number})
    return chain


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(texts, values, max_size=4)


def test_an_empty_log_has_no_head(store: MemoryStore) -> None:
    assert Chain(store, "ledger/m").read() == ()
    assert Chain(store, "ledger/m").head() is None


@settings(deadline=None)
@given(st.lists(bodies, max_size=6))
def test_what_was_appended_is_read_back_in_order_and_linked(written: list[dict[str, Json]]) -> None:
    chain = Chain(MemoryStore(), "ledger/m")
    appended = tuple(chain.append(body) for body in written)
    assert chain.read() == appended
    assert [link.body for link in appended] == written
    assert [link.number for link in appended] == list(range(1, len(written) + 1))
    assert [link.previous for link in appended] == ["0" * 64, *(link.digest for link in appended)][
        : len(written)
    ]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_flipping_any_bit_of_any_entry_is_found(data: st.DataObject) -> None:
    store = MemoryStore()
    chain = filled(store, 3)
    key = data.draw(st.sampled_from(sorted(store.objects)))
    raw = bytearray(store.objects[key])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    store.objects[key] = bytes(raw)
    with pytest.raises((Tampered, BadInput)):  # BadInput: the format version became a higher one
        chain.read()


def test_rewriting_an_entry_with_its_digest_breaks_the_next_ones_link(store: MemoryStore) -> None:
    chain = filled(store, 3)
    key = "ledger/m/00000002.json"
    found = json.loads(store.objects[key])
    found["body"] = {"n": "forged"}
    del found["digest"]
    store.objects[key] = canonical({**found, "digest": sha256(canonical(found))})
    with pytest.raises(Tampered, match="Entry 3"):
        chain.read()


def test_a_removed_entry_is_found(store: MemoryStore) -> None:
    chain = filled(store, 3)
    store.delete("ledger/m/00000002.json")
    for attempt in (chain.read, chain.head, lambda: chain.append({})):
        with pytest.raises(Tampered, match="lacks entry 2"):
            attempt()


def test_two_entries_swapped_are_found(store: MemoryStore) -> None:
    chain = filled(store, 3)
    one, two = "ledger/m/00000001.json", "ledger/m/00000002.json"
    store.objects[one], store.objects[two] = store.objects[two], store.objects[one]
    with pytest.raises(Tampered, match="calls itself number"):
        chain.read()


@pytest.mark.parametrize("name", ["notes.txt", "1.json", "00000003.json.bak", "x/00000001.json"])
def test_a_foreign_object_among_the_entries_is_named_and_stops_nothing(
    store: MemoryStore, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    chain = filled(store, 2)
    store.put(f"ledger/m/{name}", b"{}")
    assert [link.number for link in chain.read()] == [1, 2]
    assert f"holds ledger/m/{name}, which is no entry of it" in caplog.text
    assert chain.append({"n": 3}).number == 3


def test_what_was_verified_is_not_read_again_by_another_process(tmp_path: Path) -> None:
    store, read = LocalStore(str(tmp_path / "store")), list[str]()
    kept = PrefixCache(tmp_path / "kept", "ledger/m")
    links = [Chain(store, "ledger/m").append({"n": number}) for number in range(100)]
    assert Chain(store, "ledger/m", cache=kept).read() == tuple(links)

    class Counting(LocalStore):
        def get(self, key: str) -> bytes:
            read.append(key)
            return super().get(key)

    again = Chain(Counting(str(tmp_path / "store")), "ledger/m", cache=kept)
    assert again.read() == tuple(links)
    assert read == []
    links.append(again.append({"n": 100}))
    assert Chain(store, "ledger/m", cache=kept).read() == tuple(links)


@pytest.mark.parametrize("number", [1, 50, 100])
def test_an_entry_that_was_rewritten_after_it_was_verified_is_found(
    tmp_path: Path, number: int
) -> None:
    store, kept = LocalStore(str(tmp_path / "store")), PrefixCache(tmp_path / "kept", "ledger/m")
    for count in range(100):
        Chain(store, "ledger/m").append({"n": count})
    Chain(store, "ledger/m", cache=kept).read()
    path = tmp_path / "store" / "ledger" / "m" / f"{number:08d}.json"
    path.write_bytes(path.read_bytes().replace(b'"n":', b'"m":'))
    with pytest.raises(Tampered, match=path.name):
        Chain(store, "ledger/m", cache=kept).read()


@pytest.mark.parametrize("damage", [b"", b"no digest", b"0" * 64 + b"\n{}"])
def test_a_damaged_memory_of_the_log_is_done_without(tmp_path: Path, damage: bytes) -> None:
    store, kept = LocalStore(str(tmp_path / "store")), PrefixCache(tmp_path / "kept", "ledger/m")
    links = [Chain(store, "ledger/m").append({"n": number}) for number in range(70)]
    (tmp_path / "kept").write_bytes(damage)
    assert Chain(store, "ledger/m", cache=kept).read() == tuple(links)
    assert kept.read()[1]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"version":1}',
        b"[" * 100_000,
        b'{"version":NaN}',
        b'{"version":"1"}',
    ],
)
def test_an_entry_that_is_no_entry_is_found(store: MemoryStore, raw: bytes) -> None:
    store.put("ledger/m/00000001.json", raw)
    with pytest.raises(Tampered):
        Chain(store, "ledger/m").read()


def test_numbers_that_json_text_can_hold_and_canonical_json_cannot_are_found(
    store: MemoryStore,
) -> None:
    chain = filled(store, 1)
    key = "ledger/m/00000001.json"
    store.objects[key] = store.objects[key].replace(b'{"n":0}', b'{"n":1e999}')
    with pytest.raises(Tampered):
        chain.read()


def test_an_entry_of_a_later_format_asks_for_an_upgrade(store: MemoryStore) -> None:
    store.put("ledger/m/00000001.json", b'{"version":3}')
    with pytest.raises(BadInput, match="upgrade"):
        Chain(store, "ledger/m").read()


def test_logs_under_names_that_share_a_beginning_do_not_mix(store: MemoryStore) -> None:
    Chain(store, "ledger/m").append({"of": "m"})
    Chain(store, "ledger/m2").append({"of": "m2"})
    assert [link.body for link in Chain(store, "ledger/m").read()] == [{"of": "m"}]


def test_the_fence_lets_pass_who_reasoned_on_the_head(store: MemoryStore) -> None:
    chain = Chain(store, "ledger/m")
    assert chain.append({}, expect=0).number == 1
    assert chain.append({}, expect=1).number == 2


@pytest.mark.parametrize("expect", [0, 1, 3])
def test_the_fence_stops_who_reasoned_on_another_head(store: MemoryStore, expect: int) -> None:
    chain = filled(store, 2)
    with pytest.raises(AlreadyExists, match="decide on what it says now"):
        chain.append({}, expect=expect)
    assert len(chain.read()) == 2


def test_the_fence_stops_who_is_overtaken_between_reading_and_writing(store: MemoryStore) -> None:
    overtaken = Chain(
        store,
        "ledger/m",
        clock=lambda: _after(lambda: Chain(store, "ledger/m").append({"other": 1})),
    )
    with pytest.raises(AlreadyExists):
        overtaken.append({}, expect=0)
    assert [link.body for link in Chain(store, "ledger/m").read()] == [{"other": 1}]


def _after(act: object) -> datetime:
    assert callable(act)
    act()
    return datetime.now(UTC)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), b"bytes", object(), {1: "x"}, "\ud800"]
)
def test_a_body_that_json_cannot_say_is_bad_input_and_writes_nothing(
    store: MemoryStore, value: Json
) -> None:
    with pytest.raises(BadInput, match="cannot be written as JSON"):
        Chain(store, "ledger/m").append({"value": value})
    assert not store.objects


def test_times_are_utc_whatever_the_clocks_zone(store: MemoryStore) -> None:
    clock = lambda: datetime.fromisoformat("2026-01-01T09:00:00+09:00")  # noqa: E731  # a clock in one line
    assert Chain(store, "ledger/m", clock).append({}).time == "2026-01-01T00:00:00.000000+00:00"


def test_concurrent_fenced_writers_let_exactly_one_through(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))

    def attempt(writer: int) -> bool:
        try:
            Chain(store, "ledger/m").append({"writer": writer}, expect=0)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    assert len(Chain(store, "ledger/m").read()) == 1


_APPEND = """
import sys
from concurrent.futures import ThreadPoolExecutor
from infra.chain import Chain
from infra.stores.local import LocalStore
chain = Chain(LocalStore(sys.argv[1]), "ledger/m")
with ThreadPoolExecutor(3) as pool:
    list(pool.map(lambda n: chain.append({"writer": sys.argv[2], "n": n}), range(20)))
"""


def test_concurrent_processes_and_threads_lose_no_entry(tmp_path: Path) -> None:
    runs = [
        subprocess.Popen([sys.executable, "-c", _APPEND, str(tmp_path), name])
        for name in ("a", "b")
    ]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    links = Chain(LocalStore(str(tmp_path)), "ledger/m").read()
    assert sorted((str(link.body["writer"]), link.body["n"]) for link in links) == [
        (name, n) for name in ("a", "b") for n in range(20)
    ]
