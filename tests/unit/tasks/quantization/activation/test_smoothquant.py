"""SmoothQuant's smoothing scales, and the search for their strength."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.output_error import output_error
from tasks.numerics.quantized_weight import WeightScheme
from tasks.numerics.quantizer import Quantizer
from tasks.observation.observer import SiteObservation
from tasks.quantization.activation.smoothquant import (
    BY_TOKEN,
    search,
    search_by_token,
    smoothed_amax,
    smoothing_scales,
    token_error,
)
from tasks.quantization.recipe.schemes import RangeRule

Floats = NDArray[np.float32]


def seen(rows: Floats) -> SiteObservation:
    return SiteObservation(ExponentHistogram.of(rows), rows.min(axis=0), rows.max(axis=0), rows)


def problem(seed: int, outlier: float = 1.0) -> tuple[Floats, Floats]:
    """Draw rows [64, 12] with one loud channel, and a weight [7, 12]."""
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((64, 12)) * rng.lognormal(0, 0.5, 12)).astype(np.float32)
    rows[:, rng.integers(12)] *= np.float32(outlier)
    return rows, rng.standard_normal((7, 12)).astype(np.float32)


def reference_error(rows: Floats, weight: Floats, quantizer: Quantizer) -> float:
    """|| X W' - Q(X / s) Q(W s)' ||^2 / || X W' ||^2 in float64, written out."""
    s = (
        np.ones(rows.shape[1])
        if quantizer.smoothing_scales is None
        else quantizer.smoothing_scales.astype(np.float64)
    )
    step = quantizer.amax / 127
    x = np.clip(np.round(rows / s / step), -128, 127) * step
    columns = []
    for row in weight * s:
        width = np.abs(row).max() / 127
        columns.append(np.round(row / width) * width)
    exact = rows.astype(np.float64) @ weight.T
    return float(np.square(exact - x @ np.stack(columns).T).sum() / np.square(exact).sum())


def test_smoothing_scales_are_the_papers_equation_4() -> None:
    found = smoothing_scales(np.array([16, 1], np.float32), np.array([4, 0.25], np.float32), 0.5)
    assert found == pytest.approx([16**0.5 / 4**0.5, 1 / 0.25**0.5])


@pytest.mark.parametrize(("activation", "weight"), [(0, 1), (1, 0), (0, 0)])
def test_a_dead_channel_is_left_alone(activation: float, weight: float) -> None:
    found = smoothing_scales(
        np.array([activation, 2], np.float32), np.array([weight, 2], np.float32), 0.8
    )
    assert found[0] == 1
    assert np.isfinite(found).all()


@given(
    st.integers(0, 10_000), st.sampled_from([1.0, 10.0, 300.0]), st.sampled_from(list(RangeRule))
)
@settings(max_examples=40, deadline=None)
def test_the_search_is_never_worse_than_no_smoothing(
    seed: int, outlier: float, rule: RangeRule
) -> None:
    rows, weight = problem(seed, outlier)
    plain = search(seen(rows), [weight], rule, alphas=())
    assert plain.alpha is None
    assert search(seen(rows), [weight], rule).error <= plain.error


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_error_of_a_choice_is_the_true_one(seed: int) -> None:
    rows, weight = problem(seed, 30.0)
    best = search(seen(rows), [weight], RangeRule.MAX)
    assert best.error == pytest.approx(reference_error(rows, weight, best.quantizer), rel=0.05)


def test_an_outlier_channel_is_smoothed_away() -> None:
    rows, weight = problem(0, 100.0)
    weight[:, np.abs(rows).max(axis=0).argmax()] *= 0.01  # the channel is loud, not important
    plain = output_error(rows, weight, Quantizer(float(np.abs(rows).max())), WeightScheme())
    best = search(seen(rows), [weight], RangeRule.MAX)
    assert best.alpha is not None
    assert best.error < 0.05 * plain


def test_the_largest_magnitude_after_smoothing_clips_nothing() -> None:
    rows, weight = problem(1, 50.0)
    s = smoothing_scales(np.abs(rows).max(axis=0), np.abs(weight).max(axis=0), 0.8)
    assert smoothed_amax(seen(rows), s, RangeRule.MAX) == pytest.approx(np.abs(rows / s).max())


def test_layers_that_share_an_input_share_the_smoothing_scales_that_suit_them_all() -> None:
    rows, weight = problem(2, 30.0)
    together = search(seen(rows), [weight[:3], weight[3:]], RangeRule.MAX)
    alone = search(seen(rows), [weight], RangeRule.MAX)
    assert together.alpha == alone.alpha
    assert together.error == alone.error


def test_an_input_of_zeros_is_quantized_without_a_warning() -> None:
    rows, weight = np.zeros((4, 12), np.float32), problem(0)[1]
    with np.errstate(all="raise"):
        best = search(seen(rows), [weight], RangeRule.MAX)
    assert best.error == 0
    assert best.quantizer.amax > 0


def test_by_token_a_few_massive_tokens_do_not_choose_for_all_others() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((256, 192)) * rng.lognormal(0, 1, 192)).astype(np.float32)
    rows[:4, :96] *= 300  # of other channels than are loud elsewhere
    weight = rng.standard_normal((64, 192)).astype(np.float32)
    scheme, (amax, largest) = WeightScheme(), (np.abs(item).max(axis=0) for item in (rows, weight))
    by_max = [smoothing_scales(amax, largest, alpha) for alpha in BY_TOKEN]
    least = min(token_error(rows, weight, scales, scheme) for scales in by_max)
    found = search_by_token(seen(rows), [weight], scheme)
    assert token_error(rows, weight, found, scheme) < 0.9 * least
