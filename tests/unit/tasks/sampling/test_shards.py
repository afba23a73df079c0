"""How a window is parted: what is merged does not grow with the traffic."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.stores.local import LocalStore
from tasks.sampling.shards import PARTS, SHARDS, shards_of
from tasks.traffic.storage.windows import StoredRequests

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("parts", "shards"), [(0, 0), (3, 1), (4, 1), (5, 2), (4096, 1024), (100_000, 1021)]
)
def test_a_window_is_parted_into_few_shares_that_hold_every_part_once(
    tmp_path: Path, parts: int, shards: int
) -> None:
    keys = tuple(f"traffic/m/part-{number}.parquet" for number in range(parts))
    stored = StoredRequests(
        LocalStore(str(tmp_path / "store")), keys, NOON, NOON + timedelta(hours=1)
    )
    found = shards_of(stored, 64, 0.5)
    assert len(found) == shards <= SHARDS
    assert tuple(key for shard in found for key in shard.keys) == keys
    assert all(len(shard.keys) >= PARTS for shard in found[:-1])
