"""profile(A ∪ B) = merge(profile(A), profile(B)), byte for byte, in any order and grouping."""

from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import BadInput
from tasks.profiles import ProfileSettings, Scan, dump, empty, merge, parse, profile_batch
from tasks.records import Request
from tests.unit.tasks.profiles.traffic import batch, requests

SMALL = ProfileSettings(reservoir=4, fourier_features=8)
ROWS = st.lists(requests(), max_size=12)


@given(ROWS, ROWS)
@settings(deadline=None, max_examples=30)
def test_the_profile_of_both_is_the_merge_of_the_profiles(
    left: list[Request], right: list[Request]
) -> None:
    both = profile_batch(batch([*left, *right]), SMALL)
    assert dump(
        merge(profile_batch(batch(left), SMALL), profile_batch(batch(right), SMALL))
    ) == dump(both)


@given(ROWS, st.integers(1, 5), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_no_order_and_no_grouping_changes_a_byte(
    rows: list[Request], groups: int, random: Random
) -> None:
    whole = dump(profile_batch(batch(rows), SMALL))
    random.shuffle(rows)
    parts = [profile_batch(batch(rows[start::groups]), SMALL) for start in range(groups)]
    while len(parts) > 1:
        first, second = (parts.pop(random.randrange(len(parts))) for _ in range(2))
        parts.append(merge(first, second))
    assert dump(parts[0]) == whole


@given(ROWS)
@settings(deadline=None, max_examples=30)
def test_batches_added_one_by_one_equal_one_batch(rows: list[Request]) -> None:
    scan = Scan(SMALL)
    for start in range(0, len(rows), 3):
        scan.add(batch(rows[start : start + 3]))
    assert dump(scan.profile()) == dump(profile_batch(batch(rows), SMALL))


@given(ROWS)
@settings(deadline=None, max_examples=30)
def test_a_profile_comes_back_as_it_was(rows: list[Request]) -> None:
    profile = profile_batch(batch(rows), SMALL)
    stored = dump(profile)
    assert dump(parse(stored, where="x")) == stored
    assert dump(merge(empty(SMALL), parse(stored, where="x"))) == stored


def test_an_embedding_of_the_models_own_obeys_the_law_too() -> None:
    vectors = np.random.default_rng(0).standard_normal((60, 384)).astype(np.float32)
    rows = pa.RecordBatch.from_pydict({"domain": ["docs"] * 60})
    whole = profile_batch(rows, SMALL, embeddings=vectors)
    parts = [
        profile_batch(rows[n : n + 7], SMALL, embeddings=vectors[n : n + 7])
        for n in range(0, 60, 7)
    ]
    assert dump(merge(*reversed(parts))) == dump(whole)


def test_names_beyond_the_bound_stay_within_the_stated_error_and_their_buckets_exact() -> None:
    names = [f"tenant-{int(n)}" for n in np.random.default_rng(1).zipf(1.2, 60_000) % 20_000]
    parts = [
        profile_batch(pa.RecordBatch.from_pydict({"tenant": names[n::6]}), SMALL) for n in range(6)
    ]
    merged, whole = (
        merge(*parts),
        profile_batch(pa.RecordBatch.from_pydict({"tenant": names}), SMALL),
    )
    error = merged.names["tenant"].error
    assert 0 < error < 60_000 * 3.5 / 2048
    counts = merged.counts("tenant")
    for name in set(names):
        assert (
            abs(counts.get(name, 0) - names.count(name)) <= error
            if counts.get(name)
            else names.count(name) <= error
        )
    assert np.array_equal(merged.buckets("tenant"), whole.buckets("tenant"))
    assert dict(parse(dump(merged), where="x").counts("tenant")) == dict(counts)


def test_profiles_of_other_settings_cannot_be_merged_and_none_is_no_profile() -> None:
    with pytest.raises(BadInput, match="profile the parts again"):
        merge(empty(SMALL), empty(ProfileSettings()))
    with pytest.raises(BadInput, match="no profile to merge"):
        merge()
    with pytest.raises(BadInput, match="give 0 or more"):
        ProfileSettings(reservoir=-1)
    with pytest.raises(BadInput, match="above 0"):
        ProfileSettings(bandwidth=0)
