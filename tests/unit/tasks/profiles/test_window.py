"""Stored traffic is read once, ever; what became of bad parts and bad profiles is said."""

import pickle
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput, NotFound, Tampered
from infra.stores.local import LocalStore
from tasks.profiles import (
    ProfileSettings,
    dump,
    empty,
    profile_batch,
    profile_key,
    profile_part,
    profile_window,
)
from tasks.traffic.storage.parts import write_traffic
from tests.unit.tasks.profiles.traffic import NOON, batch, request

SMALL = ProfileSettings(reservoir=8, fourier_features=8)
TRAFFIC = [
    request(f"r{n}", time=NOON + timedelta(minutes=n), tenant=f"t{n % 3}") for n in range(200)
]


class Counting(LocalStore):
    """A real store that counts what is read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        data = super().get(key)
        self.reads[key.partition("/")[0]] += 1
        return data


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(str(tmp_path / "store"))


@pytest.fixture
def parts(store: Counting) -> list[str]:
    return write_traffic(store, "minilm", TRAFFIC)


def stored(store: LocalStore) -> Iterator[str]:
    return store.list("profiles/")


def test_a_part_that_was_profiled_is_never_read_again(store: Counting, parts: list[str]) -> None:
    first = profile_window(store, "minilm", parts[:2], SMALL)
    assert (first.read, store.reads["traffic"]) == (2, 2)
    second = profile_window(store, "minilm", parts, SMALL)
    assert (second.read, second.parts, store.reads["traffic"]) == (
        len(parts) - 2,
        len(parts),
        len(parts),
    )
    store.reads.clear()
    again = profile_window(store, "minilm", parts, SMALL)
    assert (again.read, store.reads["traffic"], store.reads["profiles"]) == (0, 0, len(parts))
    assert dump(again.profile) == dump(second.profile) == dump(profile_batch(batch(TRAFFIC), SMALL))


def test_profiles_outlive_their_traffic(store: Counting, parts: list[str]) -> None:
    before = profile_window(store, "minilm", parts, SMALL)
    for key in parts:
        store.delete(key)
    assert dump(profile_window(store, "minilm", parts, SMALL).profile) == dump(before.profile)


def test_a_part_named_twice_and_a_request_delivered_twice_within_a_part_count_once(
    store: Counting,
) -> None:
    parts = write_traffic(store, "minilm", [*TRAFFIC[:9], *TRAFFIC[:3]])
    assert profile_window(store, "minilm", parts * 2, SMALL).profile.rows == 9


def test_a_request_delivered_in_two_parts_shows_in_the_estimate(store: Counting) -> None:
    parts = write_traffic(store, "minilm", TRAFFIC) + write_traffic(store, "minilm", TRAFFIC[:55])
    found = profile_window(store, "minilm", parts, SMALL).profile
    assert found.rows == 255
    assert found.redelivered == pytest.approx(55 / 255, abs=0.02)
    assert len(found.reservoir.items()) == 8  # type: ignore[union-attr]


def test_settings_have_profiles_of_their_own(store: Counting, parts: list[str]) -> None:
    profile_window(store, "minilm", parts, SMALL)
    assert profile_window(
        store, "minilm", parts, ProfileSettings(reservoir=2, fourier_features=8)
    ).read == len(parts)
    assert len([*stored(store)]) == 2 * len(parts)


def test_the_work_on_a_part_travels_to_other_processes(store: Counting, parts: list[str]) -> None:
    assert pickle.loads(pickle.dumps(partial(profile_part, store, settings=SMALL)))
    with ProcessPoolExecutor(2) as pool:
        spread = profile_window(store, "minilm", parts, SMALL, mapper=pool.map)
    assert spread.read == len(parts)
    assert dump(spread.profile) == dump(profile_batch(batch(TRAFFIC), SMALL))


# --- bad input


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[:-1] + b"?", "does not match its checksum"),
        (lambda data: data[:40], "does not match its checksum|is not a profile"),
        (lambda data: b"", "is not a profile"),
        (
            lambda data: data.replace(b"requant-profile 1 ", b"requant-profile 7 ", 1),
            "has profile version 7",
        ),
        (lambda data: dump(empty(ProfileSettings())), "has settings"),
    ],
)
def test_a_bad_profile_is_made_again_with_a_diagnostic(
    store: Counting, parts: list[str], damage: object, why: str
) -> None:
    good = profile_window(store, "minilm", parts, SMALL)
    key = profile_key(parts[0], SMALL)
    store.put(key, damage(store.get(key)))  # type: ignore[operator]
    again = profile_window(store, "minilm", parts, SMALL)
    assert again.read == 1
    (diagnostic,) = again.diagnostics
    assert diagnostic.startswith(f"{parts[0]} was profiled again, because {key}")
    assert any(reason in diagnostic for reason in why.split("|"))
    assert dump(again.profile) == dump(good.profile)
    assert profile_window(store, "minilm", parts, SMALL).diagnostics == ()


def test_a_bad_profile_whose_part_is_gone_is_an_error(store: Counting, parts: list[str]) -> None:
    profile_window(store, "minilm", parts, SMALL)
    store.put(profile_key(parts[0], SMALL), b"rubbish")
    store.delete(parts[0])
    with pytest.raises(BadInput, match=r"is not a profile.*is gone, so restore one of the two"):
        profile_window(store, "minilm", parts, SMALL)


def test_a_part_that_disappears_before_it_was_profiled_is_named(
    store: Counting, parts: list[str]
) -> None:
    store.delete(parts[1])
    with pytest.raises(NotFound, match=parts[1]):
        profile_window(store, "minilm", parts, SMALL)
    assert len([*stored(store)]) == 1  # nothing done is lost


def test_a_damaged_part_and_one_that_is_no_traffic_are_refused(
    store: Counting, parts: list[str]
) -> None:
    store.put(parts[0], b"rubbish")
    with pytest.raises(Tampered, match="does not match the digest"):
        profile_window(store, "minilm", parts, SMALL)
    with pytest.raises(BadInput, match="is not a part of the traffic of other"):
        profile_window(store, "other", parts, SMALL)
    with pytest.raises(BadInput, match="import the traffic first"):
        profile_key("traffic/minilm/x.parquet", SMALL)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (pa.table({"request_id": ["a"]}), "has no column time"),
        (
            batch(TRAFFIC[:2]).set_column(2, "tenant", pa.array([1, 2])),
            "column tenant is of type .*int64.*, not a string",
        ),
        (
            batch(TRAFFIC[:2]).set_column(1, "time", pa.array([1, 2])),
            "column time is of type int64, not a time",
        ),
        (None, "is not a whole Parquet file"),
    ],
)
def test_parts_of_other_columns_are_refused(
    store: Counting, table: pa.Table | None, why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        profile_part(store, put(store, table), SMALL)


def put(store: LocalStore, table: pa.Table | pa.RecordBatch | None) -> str:

    sink = pa.BufferOutputStream()
    if table is not None:
        pq.write_table(pa.table(table) if isinstance(table, pa.RecordBatch) else table, sink)
    data = bytes(sink.getvalue()) if table is not None else b"PAR1 and no more"
    key = f"traffic/minilm/date=2026-03-01/hour=12/part-{sha256(data).hexdigest()[:32]}.parquet"
    store.put(key, data)
    return key


def test_an_empty_window_is_a_profile_of_nothing(store: Counting) -> None:
    found = profile_window(store, "minilm", [], SMALL)
    assert (found.parts, found.profile.rows, found.profile.redelivered) == (0, 0, 0)
    assert found.profile.counts("tenant") == {}
    assert not found.profile.histogram("latency_ms", [1, 2]).any()
    assert not found.profile.rff_mean().any()


def test_a_part_without_rows_is_a_profile_of_nothing(store: Counting) -> None:
    assert (
        dump(profile_batch(batch([]), SMALL))
        == profile_part(store, put(store, batch([])), SMALL).data
    )
