"""What is sampled follows from the id, waits in bounded memory, and is counted when it is lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from infra.errors import Unavailable
from infra.gateway.batching import DynamicBatcher
from infra.gateway.capture import Capture, ServedExchange, bytes_of
from infra.gateway.endpoint import Endpoint
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.wire.signature import GraphSignature

NOTHING: Any = None
RELEASE = ServedRelease("m", "1", "d", "t", NOTHING, GraphSignature((), (), False), NOTHING)


class Store:
    """Keeps batches, or fails while it is told to."""

    def __init__(self) -> None:
        self.kept, self.fails = list[int](), False
        self.asked = list[list[int]]()

    def __call__(self, batch: Sequence[int]) -> int:
        self.asked.append(list(batch))
        if self.fails:
            raise Unavailable("the store does not answer")
        if 13 in batch:
            raise ValueError("no table holds it")
        self.kept += batch
        return 0


def capture(store: Store, **options: float) -> tuple[Capture[int], GatewayMetrics]:
    metrics = GatewayMetrics()
    most = int(options.pop("most", 100))
    return Capture("m", store, metrics, most=most, **options), metrics


def count(metrics: GatewayMetrics, outcome: str) -> float:
    label = f'requant_gateway_captured_total{{model="m",outcome="{outcome}"}}'
    lines = metrics.exposition().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(label)), 0.0)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_the_fraction_is_kept_and_the_same_ids_are_sampled_by_all(fraction: float) -> None:
    one, _ = capture(Store(), fraction=fraction)
    other, _ = capture(Store(), fraction=fraction)
    sampled = [one.samples(f"r{number}") for number in range(20_000)]
    assert sampled == [other.samples(f"r{number}") for number in range(20_000)]
    assert sum(sampled) / len(sampled) == pytest.approx(fraction, abs=0.015)


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    store = Store()
    kept, metrics = capture(store, most=10)
    for number in range(25):
        kept.keep(number)
    kept.flush()
    assert store.kept == list(range(10))
    assert (count(metrics, "stored"), count(metrics, "full")) == (10, 15)


def test_what_waits_is_bounded_in_bytes_too() -> None:
    store, metrics = Store(), GatewayMetrics()
    kept = Capture("m", store, metrics, most_bytes=10, size_of=lambda number: number)
    store.fails = True
    for number in (4, 5, 2, 1):
        kept.keep(number)  # there is no room for 2
    kept.flush()
    kept.keep(3)  # nor for 3, after what was put back
    store.fails = False
    kept.flush()
    kept.keep(9)
    kept.flush()
    assert store.kept == [4, 5, 1, 9]
    assert (count(metrics, "stored"), count(metrics, "full")) == (4, 2)


def test_an_exchange_is_as_large_as_what_it_holds() -> None:
    def size(payload: object) -> int:
        return bytes_of(
            ServedExchange("r", datetime.now(UTC), 1.0, "1", {"tenant": "abc"}, payload)
        )

    image = np.zeros((4, 8), np.float32)
    assert size("word") == 16 + 3 + 1
    assert size(image) == 128 + 3 + 1
    assert size({"image": image, "mask": image.astype(bool)}) == 128 + 32 + 3 + 1


def test_a_store_that_fails_loses_nothing_while_there_is_room() -> None:
    store = Store()
    kept, metrics = capture(store, most=5)
    store.fails = True
    for number in range(3):
        kept.keep(number)
    kept.flush()
    for number in range(3, 6):
        kept.keep(number)
    store.fails = False
    kept.flush()
    assert store.kept == [0, 1, 2, 3, 4]
    # As it was, so that a store that has some of it by now gets nothing twice.
    assert store.asked == [[0, 1, 2], [0, 1, 2], [3, 4]]
    assert (count(metrics, "stored"), count(metrics, "full")) == (5, 1)


def test_what_can_never_be_stored_is_counted_and_nothing_waits_behind_it() -> None:
    store = Store()
    kept, metrics = capture(store, most=5)
    for batch in ([12, 13], [14, 15, 16, 17, 18]):
        for number in batch:
            kept.keep(number)
        kept.flush()
    assert store.kept == [14, 15, 16, 17, 18]
    assert (count(metrics, "failed"), count(metrics, "stored"), count(metrics, "full")) == (2, 5, 0)


def test_the_rest_is_stored_at_the_end_or_counted_as_lost() -> None:
    store = Store()
    kept, metrics = capture(store, interval_s=60)
    kept.start()
    kept.keep(1)
    kept.close()
    assert store.kept == [1]
    lost, metrics = capture(store, interval_s=60)
    lost.keep(2)
    store.fails = True
    lost.close()
    assert count(metrics, "failed") == 1


def test_a_tenth_is_a_tenth_by_the_counters_and_each_input_has_an_outcome() -> None:
    metrics, store = GatewayMetrics(), list[ServedExchange]()

    def kept(batch: Sequence[ServedExchange]) -> int:
        store.extend(batch)
        return 0

    sample = Capture("m", kept, metrics, fraction=0.1, most=900)
    endpoint = Endpoint("m", DynamicBatcher("m", metrics), metrics, capture=sample)
    asked, rows = 4000, ["first", "second", "third"]
    for _ in range(asked):
        endpoint.sample(RELEASE, rows, {"tenant": "acme"}, "the same id", 1.0)
    sample.flush()
    lines = metrics.exposition().decode().splitlines()
    name = 'requant_gateway_sampled_requests_total{model="m"} '
    (sampled,) = (float(line.removeprefix(name)) for line in lines if line.startswith(name))
    assert sampled == pytest.approx(asked / 10, abs=6 * (asked * 0.09) ** 0.5)
    assert count(metrics, "stored") == len(store) == 900
    assert count(metrics, "stored") + count(metrics, "full") == sampled * len(rows)
    assert len({exchange.request_id for exchange in store}) == 900
