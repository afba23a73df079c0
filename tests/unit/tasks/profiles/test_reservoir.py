"""A reservoir that order, repetition and sharding cannot change."""

from collections.abc import Iterable
from functools import reduce

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.traffic import sampling
from infra.errors import BadInput
from tasks.profiles.columns.hashing import hash64
from tasks.profiles.reservoir import DistinctCount, Reservoir, uniform

KEYS = st.lists(st.text(max_size=4), max_size=60)
CAPACITY = st.integers(1, 12)
CAP = st.none() | st.integers(1, 6)


def filled(keys: Iterable[str], capacity: int, cap: int | None = None) -> Reservoir[str]:
    reservoir: Reservoir[str] = Reservoir(capacity, cap=cap)
    for key in keys:
        reservoir.offer(key, key, weight=1 + len(key), group=key[:1])
    return reservoir


@given(KEYS, CAPACITY, CAP, st.randoms(use_true_random=False))
def test_order_does_not_matter(
    keys: list[str], capacity: int, cap: int | None, random: object
) -> None:
    shuffled = keys.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert filled(shuffled, capacity, cap).items() == filled(keys, capacity, cap).items()


@given(KEYS, CAPACITY, CAP)
def test_a_key_offered_again_counts_once(keys: list[str], capacity: int, cap: int | None) -> None:
    assert (
        filled([*keys, *keys[::2], *keys], capacity, cap).items()
        == filled(keys, capacity, cap).items()
    )


@given(KEYS, KEYS, CAPACITY, CAP)
def test_merging_two_shards_equals_one_pass_over_both(
    left: list[str], right: list[str], capacity: int, cap: int | None
) -> None:
    merged = filled(left, capacity, cap).merge(filled(right, capacity, cap))
    assert merged.items() == filled(left + right, capacity, cap).items()


@given(KEYS, CAPACITY, CAP)
def test_it_is_as_full_as_it_can_be(keys: list[str], capacity: int, cap: int | None) -> None:
    assert len(filled(keys, capacity, cap).items()) == min(capacity, len(set(keys)))


def test_a_capped_group_leaves_room_for_others() -> None:
    keys = [f"a{i}" for i in range(1000)] + ["b1", "b2", "c1"]
    kept = filled(keys, 8, cap=4).items()
    assert {"b1", "b2", "c1"} <= set(kept)


def test_heavier_items_are_drawn_in_proportion_when_few_places_are_given() -> None:
    wins = 0
    for seed in range(4000):
        reservoir: Reservoir[str] = Reservoir(1, seed=seed)
        reservoir.offer("light", "light", weight=1)
        reservoir.offer("heavy", "heavy", weight=3)
        wins += reservoir.items() == ["heavy"]
    assert wins / 4000 == pytest.approx(0.75, abs=0.03)


def test_every_key_is_drawn_equally_often() -> None:
    counts = dict.fromkeys("abcdefgh", 0)
    for seed in range(4000):
        reservoir: Reservoir[str] = Reservoir(2, seed=seed)
        for key in counts:
            reservoir.offer(key, key)
        for key in reservoir.items():
            counts[key] += 1
    assert all(count == pytest.approx(1000, abs=130) for count in counts.values())


def test_a_weight_of_zero_is_never_drawn_and_a_senseless_one_is_refused() -> None:
    reservoir: Reservoir[str] = Reservoir(3)
    reservoir.offer("a", "a", weight=0)
    reservoir.offer("a", "a", weight=5e-324)
    assert reservoir.items() == []
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="finite number of 0 or more"):
            reservoir.offer("a", "a", weight=weight)


def test_unlike_reservoirs_cannot_be_merged_and_empty_ones_not_made() -> None:
    with pytest.raises(BadInput, match="cannot be merged"):
        filled("a", 2).merge(filled("a", 3))
    with pytest.raises(BadInput, match="cannot hold anything"):
        Reservoir(0)


def test_of_two_items_of_one_key_the_lesser_stays() -> None:
    for items in ([2, 1], [1, 2]):
        reservoir: Reservoir[int] = Reservoir(2, order=lambda item: (item,))
        for item in items:
            reservoir.offer("same", item)
        assert reservoir.items() == [1]


def test_of_two_weights_of_one_key_the_heavier_stays() -> None:
    for weights in ([1.0, 2.0], [2.0, 1.0]):
        reservoir: Reservoir[float] = Reservoir(2, order=lambda item: (item,))
        for weight in weights:
            reservoir.offer("same", weight, weight=weight)
        assert reservoir.items() == [2.0]


@given(st.text(), st.integers(0, 5))
def test_the_uniform_number_lies_strictly_between_0_and_1(key: str, seed: int) -> None:
    assert 0 < uniform(key, seed) < 1


def test_the_distinct_count_is_exact_at_first_and_close_later() -> None:
    counter = DistinctCount(1024)
    for i in range(1000):
        counter.add(str(i % 500))
    assert counter.value == 500
    for i in range(50_000):
        counter.add(str(i))
    assert counter.value == pytest.approx(50_000, rel=0.1)


WEIGHTS = st.lists(st.floats(0, 1e6), min_size=60, max_size=60)


@example(["", ""], 1, None, [1.0, 2.0, *[0.0] * 58], 2)
@given(KEYS, CAPACITY, CAP, st.none() | WEIGHTS, st.integers(1, 7))
def test_batches_keep_what_single_offers_keep(
    keys: list[str], capacity: int, cap: int | None, heavy: list[float] | None, size: int
) -> None:
    single: Reservoir[int] = Reservoir(capacity, cap=cap, seed=3, order=lambda row: (row,))
    for row, key in enumerate(keys):
        single.offer(key, row, weight=heavy[row] if heavy else 1.0, group=key[:1])
    batched: Reservoir[int] = Reservoir(capacity, cap=cap, seed=3, order=lambda row: (row,))
    for start in range(0, len(keys), size):
        part = pa.array(keys[start : start + size], pa.string())
        batched.offer_all(
            part,
            hash64(part, 3),
            lambda rows, start=start: (rows + start).tolist(),
            weights=np.array(heavy)[start : start + len(part)] if heavy else None,
            groups=lambda rows, part=part: [part[row].as_py()[:1] for row in rows.tolist()],
        )
    assert batched.entries() == single.entries()


def test_sixty_four_shards_of_many_keys_equal_one_pass() -> None:
    keys = pa.array([f"request-{n % 9000}" for n in range(20_000)])
    whole = sampling.filled(keys, 100, 0)
    shards = [sampling.filled(keys[n : n + 313], 100, 0, start=n) for n in range(0, len(keys), 313)]
    assert len(shards) == 64
    merged = reduce(Reservoir.merge, reversed(shards))
    assert [entry.key for entry in merged.entries()] == [entry.key for entry in whole.entries()]


def test_inclusion_is_uniform_and_by_weight() -> None:
    assert sampling.uniform_p(400, 100, 200) > 0.001
    assert sampling.weighted_p(400) > 0.001


def test_a_batch_with_a_senseless_weight_is_refused() -> None:
    keys = pa.array(["a", "b"])
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match=r"weight of 'b' is .* finite number of 0 or more"):
            Reservoir[int](3).offer_all(keys, hash64(keys), list, weights=np.array([1, weight]))
