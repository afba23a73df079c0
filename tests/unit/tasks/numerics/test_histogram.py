"""The range-free histogram against numpy on the same numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.numerics.histogram import BINS, CENTRES, EDGES, ExponentHistogram

FLOATS = hnp.arrays(
    np.float32,
    st.integers(0, 60),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)
FINITE = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_nan=False, allow_subnormal=False),
)
WIDTH = 1.125
"""Bins are at most 12.5 % wide."""


@given(st.lists(FLOATS, max_size=4))
def test_the_sum_of_parts_is_the_histogram_of_the_whole(parts: list[np.ndarray]) -> None:
    whole = ExponentHistogram.of(np.concatenate([*parts, np.zeros(0, np.float32)]))
    summed = sum((ExponentHistogram.of(part) for part in parts), ExponentHistogram.empty())
    assert summed == whole


@given(FLOATS, FLOATS)
def test_addition_commutes(left: np.ndarray, right: np.ndarray) -> None:
    a, b = ExponentHistogram.of(left), ExponentHistogram.of(right)
    assert a + b == b + a


@given(FLOATS)
def test_every_element_is_counted_once_as_finite_or_not(values: np.ndarray) -> None:
    histogram = ExponentHistogram.of(values)
    assert histogram.total == np.isfinite(values).sum()
    assert histogram.nonfinite == (~np.isfinite(values)).sum()
    assert histogram.amax == np.abs(values[np.isfinite(values)]).max(initial=0.0)


@given(FINITE)
def test_the_sign_does_not_matter(values: np.ndarray) -> None:
    assert ExponentHistogram.of(values) == ExponentHistogram.of(-values)


@given(FINITE, st.floats(0, 1))
def test_a_quantile_lies_within_a_bin_of_the_true_one(values: np.ndarray, q: float) -> None:
    found = ExponentHistogram.of(values).quantile(q)
    rank = (
        max(int(np.ceil(q * len(values) - 1e-9)), 1) - 1
    )  # the smallest value that holds a share q
    true = np.sort(np.abs(values.astype(np.float64)))[rank]
    if q > 0:
        assert true / WIDTH - 1e-30 <= found <= true * WIDTH + 1e-30
    assert found <= np.abs(values).max()


@given(FINITE, st.floats(0, 1e30))
def test_the_share_above_lies_between_the_shares_one_bin_away(
    values: np.ndarray, threshold: float
) -> None:
    share = ExponentHistogram.of(values).fraction_above(threshold)
    magnitudes = np.abs(values.astype(np.float64))
    assert share <= (magnitudes > threshold / WIDTH - 1e-37).mean() + 1e-12
    assert share >= (magnitudes > threshold * WIDTH + 1e-37).mean() - 1e-12


def test_quantiles_of_many_numbers_agree_with_numpy() -> None:
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    histogram = ExponentHistogram.of(values)
    for q in (0.1, 0.5, 0.99, 0.9999):
        assert histogram.quantile(q) == pytest.approx(np.quantile(np.abs(values), q), rel=0.03)
    assert histogram.fraction_above(2.0) == pytest.approx((np.abs(values) > 2).mean(), rel=0.03)


def test_an_empty_histogram_has_no_range() -> None:
    empty = ExponentHistogram.empty()
    assert (empty.total, empty.amax, empty.quantile(0.5), empty.fraction_above(0.0)) == (
        0,
        0.0,
        0.0,
        0.0,
    )


def test_nothing_lies_above_the_largest_magnitude() -> None:
    assert ExponentHistogram.of(np.array([1.0, 3.3], np.float32)).fraction_above(3.3) == 0.0


def test_bins_are_at_most_an_eighth_wide_and_cover_every_float() -> None:
    normal = EDGES[EDGES >= 2.0**-126]
    assert (normal[1:] / normal[:-1]).max() <= WIDTH
    assert (CENTRES >= EDGES).all()
    assert len(ExponentHistogram.of(np.zeros(1, np.float32)).counts) == BINS


def test_a_strided_view_is_binned_like_its_copy() -> None:
    values = np.arange(20, dtype=np.float32).reshape(4, 5)
    assert ExponentHistogram.of(values[:, ::2]) == ExponentHistogram.of(values[:, ::2].copy())


def test_a_nan_is_counted_alike_whatever_its_payload_and_sign() -> None:
    quiet = ExponentHistogram.of(np.array([np.nan], np.float32))
    for bits in (0x7FFFFFFF, 0xFFC00000, 0x7FC00001, 0x7F900000):
        assert ExponentHistogram.of(np.array([bits], np.uint32).view(np.float32)) == quiet
    assert quiet != ExponentHistogram.of(np.array([np.inf], np.float32))
