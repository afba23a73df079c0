"""Cross-layer equalization: the same function, even ranges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.quantization.equalization import LIMIT, factors, input_ranges, output_ranges

RANGES = arrays(np.float32, 6, elements=st.floats(np.float32(1e-3), np.float32(1e3), width=32))
ANY = arrays(np.float32, 6, elements=st.floats(0, np.float32(3e38), width=32))


def test_factors_are_the_papers_equation_11() -> None:
    assert factors(np.array([8, 2], np.float32), np.array([2, 8], np.float32)) == pytest.approx([2, 0.5])


@given(RANGES, RANGES)
def test_both_layers_end_with_the_geometric_mean_of_their_ranges(before: np.ndarray, after: np.ndarray) -> None:
    s = factors(before, after)
    assert before / s == pytest.approx(np.sqrt(before * after), rel=1e-4)
    assert after * s == pytest.approx(np.sqrt(before * after), rel=1e-4)


@given(ANY, ANY)
def test_factors_are_positive_and_bounded_whatever_the_ranges(before: np.ndarray, after: np.ndarray) -> None:
    with np.errstate(all="raise"):
        s = factors(before, after)
    assert np.isfinite(s).all()
    assert (s >= np.float32(0.99 / LIMIT)).all()
    assert (s <= np.float32(1.01 * LIMIT)).all()


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0), (0, 0)])
def test_a_dead_channel_is_left_alone(before: float, after: float) -> None:
    assert factors(np.array([before, 4], np.float32), np.array([after, 1], np.float32)) == pytest.approx([1, 2])


def test_two_layers_with_a_relu_between_compute_what_they_did() -> None:
    rng = np.random.default_rng(0)
    first = (rng.standard_normal((6, 5)) * rng.lognormal(0, 2, 6)[:, None]).astype(np.float32)
    second, x = rng.standard_normal((3, 6)).astype(np.float32), rng.standard_normal((20, 5)).astype(np.float32)
    s = factors(output_ranges(first), input_ranges([second]))
    found = np.maximum(x @ (first / s[:, None]).T, 0) @ (second * s).T
    assert found == pytest.approx(np.maximum(x @ first.T, 0) @ second.T, rel=1e-4, abs=1e-4)
    assert output_ranges(first / s[:, None]) == pytest.approx(input_ranges([second * s]), rel=1e-5)


def test_ranges_of_convolutions_are_by_channel() -> None:
    weight = np.zeros((2, 3, 3, 3), np.float32)
    weight[1, 2, 0, 0], weight[0, 1, 2, 2] = -5, 3
    assert output_ranges(weight).tolist() == [3, 5]
    assert input_ranges([weight]).tolist() == [0, 3, 5]


def test_layers_that_share_an_input_count_together() -> None:
    first, second = np.array([[1.0, -4.0]], np.float32), np.array([[2.0, 3.0], [0.0, 0.0]], np.float32)
    assert input_ranges([first, second]).tolist() == [2, 4]
