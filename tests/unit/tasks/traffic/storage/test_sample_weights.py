"""How much of the traffic each request of a stored sample stands for."""

from datetime import UTC, datetime
from pathlib import Path

from infra.stores import layout
from infra.stores.local import LocalStore
from tasks.records import Request
from tasks.traffic.storage.sample_weights import (
    read_weights,
    weights_of,
    write_weights,
)

KEY = "calibration/m/abc.parquet"


def request(name: str) -> Request:
    return Request(name, datetime(2026, 3, 1, tzinfo=UTC), "acme", "docs", "en", "a text")


def test_weights_are_in_the_order_of_the_requests_and_the_pools_are_the_mean(
    tmp_path: Path,
) -> None:
    store = LocalStore(str(tmp_path / "store"))
    write_weights(store, KEY, {"a": 1.0, "b": 5.0})
    assert store.exists("calibration/m/abc.weights.json")
    assert weights_of(store, KEY, [request("b"), request("pool"), request("a")]).tolist() == [
        5.0,
        3.0,
        1.0,
    ]


def test_a_sample_without_weights_has_equal_ones(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "store"))
    write_weights(store, KEY, {})
    assert not store.exists(layout.sample_weights(KEY))
    assert read_weights(store, KEY) == {}
    assert weights_of(store, KEY, [request("a"), request("b")]).tolist() == [1.0, 1.0]
