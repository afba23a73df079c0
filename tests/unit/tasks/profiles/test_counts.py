"""What the parts of a profile say is true, within the error that they state."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import BadInput
from tasks.profiles.columns.categories import NAMES, Categories
from tasks.profiles.columns.distinct import REGISTERS, Distinct
from tasks.profiles.columns.hashing import hash64
from tasks.profiles.columns.quantiles import WIDTH, FineHistogram, snapped

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize(
    "values",
    [
        RANDOM.lognormal(3, 2, 20_000),
        RANDOM.standard_normal(20_000) * 1e-4,
        RANDOM.integers(0, 24, 20_000),
    ],
)
def test_quantiles_are_within_half_a_bin(values: np.ndarray) -> None:
    histogram = FineHistogram.of(values)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert histogram.quantile(share) == pytest.approx(exact, rel=WIDTH, abs=1e-6)


@given(
    st.lists(st.floats(width=32, allow_nan=False), max_size=50),
    st.lists(st.floats(-1e9, 1e9), max_size=6),
)
def test_frozen_bins_count_exactly(values: list[float], edges: list[float]) -> None:
    grid = snapped(edges)
    positive = np.abs(np.array(values))
    grid = grid[grid >= 0]
    finite = positive[np.isfinite(positive)]
    expected = np.diff([0, *((finite < edge).sum() for edge in grid), len(finite)])
    assert FineHistogram.of(positive).between(list(grid)).tolist() == expected.tolist()


@given(st.lists(st.floats(), max_size=50))
def test_no_number_is_lost_and_negative_ones_keep_their_order(values: list[float]) -> None:
    histogram = FineHistogram.of(np.array(values, float))
    with np.errstate(over="ignore"):
        finite = [value for value in np.array(values, np.float32).tolist() if np.isfinite(value)]
    assert (histogram.total, histogram.nonfinite) == (len(finite), len(values) - len(finite))
    low, high, counts = histogram.bins()
    assert counts.sum() == len(finite)
    for value in finite:
        assert ((low <= value) & (value <= high)).any()


def test_edges_off_the_grid_are_refused_and_snapping_moves_them_little() -> None:
    with pytest.raises(BadInput, match="pass them through `snapped`"):
        FineHistogram.empty().between([1.0001])
    edges = np.array([-70.3, -0.2, 0, 0.3, 12, 1000.5])
    assert np.abs(snapped(list(edges)) - edges).max() <= 1000.5 * WIDTH / 2
    assert np.array_equal(snapped(list(snapped(list(edges)))), snapped(list(edges)))


def test_nothing_counted_has_no_quantile() -> None:
    assert np.isnan(FineHistogram.empty().quantile(0.5))


@pytest.mark.parametrize("count", [0, 1, 10, 1000, 10_000, 200_000])
def test_distinct_values_are_estimated_within_four_standard_errors(count: int) -> None:
    hashes = hash64(pa.array([f"request-{n}" for n in range(count)], pa.string()))
    found = Distinct.of(np.concatenate([hashes, hashes]))
    assert found.value == pytest.approx(count, rel=4 * 1.04 / REGISTERS**0.5)
    assert found == Distinct.of(hashes) | Distinct.of(hashes[::2])


def test_registers_hold_the_longest_run_of_zeros() -> None:
    hashes = hash64(pa.array([f"{n}" for n in range(5000)]))
    expected = np.zeros(4096, int)
    for value in [*hashes.tolist(), 7 << 52]:
        rest = value & (2**52 - 1)
        rank = (rest & -rest).bit_length() if rest else 53
        expected[value >> 52] = max(expected[value >> 52], rank)
    assert (
        Distinct.of(np.append(hashes, np.uint64(7 << 52))).registers.tolist() == expected.tolist()
    )


def test_names_are_exact_up_to_the_bound_and_their_buckets_beyond() -> None:
    counted = Categories()
    counted.add(pa.array([f"n{n}" for n in range(NAMES)]), np.arange(NAMES) + 1)
    assert (counted.error, len(counted.counts()), counted.total) == (
        0,
        NAMES,
        NAMES * (NAMES + 1) // 2,
    )
    assert next(iter(counted.counts().items())) == (f"n{NAMES - 1}", NAMES)
    counted.add(pa.array([f"m{n}" for n in range(NAMES)]), np.ones(NAMES, int))
    assert counted.error > 0
    assert counted.total == NAMES * (NAMES + 1) // 2 + NAMES
