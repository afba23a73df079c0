"""Each range rule against the same rule worked out on the numbers themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.output_error import squared_error
from tasks.quantization.activation.ranges import (
    TOLERANCE,
    amax,
    expected_largest,
    nearest,
)
from tasks.quantization.recipe.schemes import RangeRule

Floats = NDArray[np.float32]
RNG = np.random.default_rng(7)
SHAPES: dict[str, Floats] = {
    "normal": RNG.standard_normal(40_000),
    "laplace": RNG.laplace(size=40_000),
    "relu": np.maximum(RNG.standard_normal(40_000), 0),
    "uniform": RNG.uniform(-3, 3, 40_000),
    "heavy": RNG.standard_t(3, 40_000),
    "outlier": np.append(RNG.standard_normal(40_000) * 0.01, 25.0),
    "tiny": RNG.standard_normal(40_000) * 1e-6,
}
SHAPES = {name: values.astype(np.float32) for name, values in SHAPES.items()}


@pytest.fixture(params=SHAPES)
def values(request: pytest.FixtureRequest) -> Floats:
    return SHAPES[request.param]


def error_of(values: Floats, clip: float) -> float:
    """Mean squared error of symmetric INT8 with this clip."""
    scale = clip / 127
    restored = np.clip(np.rint(values / scale), -127, 127) * scale
    return float(np.square(values.astype(np.float64) - restored).mean())


def divergence_of(values: Floats, clip: float, bins: int = 2048, levels: int = 128) -> float:
    """KL(P || Q) of Migacz' slides.

    Written as its pseudocode on the linear histogram of the numbers.
    """
    top = float(np.abs(values).max())
    counts, _ = np.histogram(np.abs(values), bins=bins, range=(0, top))
    counts[0] = counts[1]
    kept = max(min(round(clip / top * bins), bins), levels)
    reference = counts[:kept].astype(np.float64)
    reference[-1] += counts[kept:].sum()
    quantized = np.zeros(kept)
    for level in range(levels):
        start, end = -(-level * kept // levels), -(-(level + 1) * kept // levels)
        part = counts[start:end]
        if part.any():
            quantized[start:end] = np.where(part > 0, part.sum() / (part > 0).sum(), 0)
    p, q = reference / reference.sum(), quantized / quantized.sum()
    both = (p > 0) & (q > 0)
    return float((p[both] * np.log(p[both] / q[both])).sum() + 30 * p[(p > 0) & (q == 0)].sum())


def best_of(values: Floats, cost: Callable[[Floats, float], float]) -> float:
    """Return the least cost over a fine grid of clips."""
    clips = np.abs(values).max() * np.linspace(0.02, 1, 400)
    return min(cost(values, float(clip)) for clip in clips)


def test_the_largest_magnitude_is_exact(values: Floats) -> None:
    assert amax(ExponentHistogram.of(values), RangeRule.MAX) == np.abs(values).max()


def test_the_percentile_is_within_a_bin_of_the_true_one(values: Floats) -> None:
    found = amax(ExponentHistogram.of(values), RangeRule.PERCENTILE)
    assert found == pytest.approx(
        np.quantile(np.abs(values), 0.9999, method="inverted_cdf"), rel=0.125
    )


def test_the_least_squared_error_is_nearly_the_brute_force_optimum(values: Floats) -> None:
    clip = amax(ExponentHistogram.of(values), RangeRule.MSE)
    assert error_of(values, clip) <= 1.03 * best_of(values, error_of)


def test_the_estimated_squared_error_is_near_the_true_one(values: Floats) -> None:
    histogram = ExponentHistogram.of(values)
    clip = histogram.amax * 0.9
    # Bins are up to 12.5 % wide: a lone outlier is somewhere in its own.
    assert squared_error(histogram, clip) == pytest.approx(error_of(values, clip), rel=0.25)


@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "heavy", "uniform"])
def test_the_entropy_rule_is_nearly_the_brute_force_optimum(name: str) -> None:
    values = SHAPES[name]
    clip = amax(ExponentHistogram.of(values), RangeRule.ENTROPY)
    worst = divergence_of(values, float(np.abs(values).max()) * 0.05)
    # Within two per cent of the way from the best clip to a bad one.
    best = best_of(values, divergence_of)
    assert divergence_of(values, clip) - best <= 0.02 * (worst - best)


def test_the_entropy_rule_clips_a_lone_outlier_and_keeps_a_flat_distribution() -> None:
    assert amax(ExponentHistogram.of(SHAPES["outlier"]), RangeRule.ENTROPY) < 1
    assert amax(ExponentHistogram.of(SHAPES["uniform"]), RangeRule.ENTROPY) > 0.9 * 3


def test_zeros_do_not_sway_the_entropy_rule() -> None:
    padded = np.append(SHAPES["normal"], np.zeros(40_000, np.float32))
    without = amax(ExponentHistogram.of(SHAPES["normal"]), RangeRule.ENTROPY)
    assert amax(ExponentHistogram.of(padded), RangeRule.ENTROPY) == without


@pytest.mark.parametrize("rule", RangeRule)
def test_no_rule_goes_beyond_the_largest_magnitude(rule: RangeRule, values: Floats) -> None:
    assert 0 < amax(ExponentHistogram.of(values), rule) <= np.abs(values).max()


@pytest.mark.parametrize("rule", RangeRule)
def test_a_tensor_of_zeros_still_has_a_positive_range(rule: RangeRule) -> None:
    assert 0 < amax(ExponentHistogram.of(np.zeros(10, np.float32)), rule) < 1e-6


@pytest.mark.parametrize("rule", RangeRule)
def test_a_tensor_of_one_value_is_kept_whole(rule: RangeRule) -> None:
    assert amax(ExponentHistogram.of(np.full(10, 3.0, np.float32)), rule) == pytest.approx(
        3.0, rel=0.13
    )


def test_a_percentile_of_a_nearly_empty_tensor_is_not_zero() -> None:
    values = np.zeros(100_000, np.float32)
    values[:5] = 4.0
    assert amax(ExponentHistogram.of(values), RangeRule.PERCENTILE) == 4.0


@pytest.mark.parametrize("rule", RangeRule)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_infinities_and_nan_are_bad_input(rule: RangeRule, broken: float) -> None:
    with pytest.raises(BadInput, match="infinite or NaN"):
        amax(ExponentHistogram.of(np.array([1, broken], np.float32)), rule)


@pytest.mark.parametrize("rule", RangeRule)
def test_no_data_is_bad_input(rule: RangeRule) -> None:
    with pytest.raises(BadInput, match="empty"):
        amax(ExponentHistogram.empty(), rule)


@pytest.mark.parametrize("name", ["normal", "laplace", "uniform", "heavy", "relu"])
def test_the_moving_average_is_that_of_shuffled_batches(name: str) -> None:
    values = np.abs(SHAPES[name])
    rng = np.random.default_rng(1)
    maxima = [rng.choice(values, (32, len(values) // 32)).max(axis=1).mean() for _ in range(50)]
    assert expected_largest(ExponentHistogram.of(values)) == pytest.approx(
        np.mean(maxima), rel=0.04
    )


def test_the_moving_average_of_uniform_values_is_the_known_one() -> None:
    values = np.linspace(0, 1, 6_400, dtype=np.float32)
    assert expected_largest(ExponentHistogram.of(values)) == pytest.approx(200 / 201, rel=1e-3)


def test_an_outlier_of_one_batch_counts_for_the_batches_that_can_hold_it() -> None:
    values = np.append(np.full(31_999, 1, np.float32), np.float32(1001))
    assert expected_largest(ExponentHistogram.of(values)) == pytest.approx(
        1 + 1000 * (1 - np.exp(-1 / 32)), rel=0.05
    )


@pytest.mark.parametrize("rule", RangeRule)
@pytest.mark.parametrize(
    "values",
    [
        [5.0],
        [1e-30],
        [1e30],
        [0.0],
        [2.0] * 100,
        [0.01] * 10_000 + [1e30],
        [0.0] * 10_000 + [1e-30],
        [3e38, 1e-38],
    ],
    ids=lambda values: f"{len(values)} values to {max(values):g}",
)
def test_every_rule_is_sound_on_extreme_histograms(rule: RangeRule, values: list[float]) -> None:
    largest = max(float(np.float32(max(values))), 1e-12)
    with np.errstate(all="raise", under="ignore"):
        found = amax(ExponentHistogram.of(np.array(values, np.float32)), rule)
    assert 0 < found <= largest


@pytest.mark.parametrize("rule", [RangeRule.MSE, RangeRule.ENTROPY])
def test_a_floating_point_format_is_not_clipped_for_the_sake_of_its_step(
    rule: RangeRule, values: Floats
) -> None:
    assert amax(ExponentHistogram.of(values), rule, 448.0) == np.abs(values).max()


@pytest.mark.parametrize("rule", RangeRule)
def test_the_range_scales_with_the_values(rule: RangeRule) -> None:
    small, large = (
        ExponentHistogram.of(SHAPES["laplace"] * np.float32(factor)) for factor in (1, 1024)
    )
    assert amax(large, rule) == pytest.approx(1024 * amax(small, rule), rel=1e-6)


def test_a_deployed_clip_that_is_as_good_as_the_best_stays(values: Floats) -> None:
    histogram = ExponentHistogram.of(values)
    best = amax(histogram, RangeRule.MSE)
    assert (
        nearest(lambda clip: squared_error(histogram, clip), histogram.amax, best * 1.01)
        == best * 1.01
    )


@pytest.mark.parametrize("deployed", [0.01, 100.0])
def test_another_one_moves_to_the_edge_of_what_costs_hardly_more(
    values: Floats, deployed: float
) -> None:
    histogram = ExponentHistogram.of(values)

    def cost(clip: float) -> float:
        return squared_error(histogram, clip)

    best, before = amax(histogram, RangeRule.MSE), deployed * histogram.amax
    found = nearest(cost, histogram.amax, before)
    assert cost(found) <= (1 + TOLERANCE) * cost(best) * 1.01
    if found < histogram.amax:  # towards the deployed one it would cost more
        assert (
            cost(found * (1.02 if before > found else 0.98)) > (1 + TOLERANCE) * cost(best) * 0.99
        )
    assert (found - best) * (before - best) >= -1e-3 * best**2
