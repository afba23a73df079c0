"""How a window is parted: what is merged does not grow with the traffic."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.stores.local import LocalStore
from tasks.sampling.shards import PARTS, SHARES, shares_of
from tasks.traffic import StoredRequests

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("parts", "shares"), [(0, 0), (3, 1), (4, 1), (5, 2), (4096, 1024), (100_000, 1021)]
)
def test_a_window_is_parted_into_few_shares_that_hold_every_part_once(
    tmp_path: Path, parts: int, shares: int
) -> None:
    keys = tuple(f"traffic/m/part-{number}.parquet" for number in range(parts))
    stored = StoredRequests(
        LocalStore(str(tmp_path / "store")), keys, NOON, NOON + timedelta(hours=1)
    )
    found = shares_of(stored, 64, 0.5)
    assert len(found) == shares <= SHARES
    assert tuple(key for share in found for key in share.keys) == keys
    assert all(len(share.keys) >= PARTS for share in found[:-1])
