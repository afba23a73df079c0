"""At any magnitude scales are finite and positive.

And what lies inside the range returns within half a step.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tasks.graphs.sites import Layer, Site
from tasks.numerics.formats import LARGEST, SMALLEST, NumberFormat, PerBlock, PerChannel, PerTensor
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.quantized_weight import WeightScheme, quantize, spread
from tasks.numerics.quantizer import fake_quantize
from tasks.observation.observer import Observer, SiteObservation
from tasks.observation.scales import check_scales
from tasks.quantization.activation.quantizers import SiteQuantizer, choice_error, quantizer
from tasks.quantization.activation.smoothquant import search
from tasks.quantization.recipe.schemes import RangeRule, Static
from tests.unit.tasks.quantization.weight.rounded import gptq

Floats = NDArray[np.float32]
SITE = Site("fc", "t", -1, (Layer("fc", "n", "MatMul", "w", 1),))
BIGGEST = float(np.finfo(np.float32).max)
NUMBERS = st.one_of(
    st.floats(-BIGGEST, BIGGEST, width=32),
    st.sampled_from(
        [0.0, -0.0, 1e-45, -1e-40, 1e-38, 1e-30, 1.0, -3.0, 1e30, -1e30, 3.4e38, BIGGEST, -BIGGEST]
    ),
)
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=NUMBERS)
SCHEMES = [
    Static(format, symmetric=symmetric, rule=rule)
    for format in (NumberFormat.INT8, NumberFormat.FP8)
    for symmetric in (True, False)
    for rule in RangeRule
    if symmetric or format is NumberFormat.INT8
]


def observed(rows: Floats) -> SiteObservation:
    observer = Observer((SITE,))
    observer.update({"t": rows}, np.arange(len(rows)))
    return observer.result()["fc"]


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_an_observation_is_exact_at_any_magnitude(rows: Floats) -> None:
    found = observed(rows)
    assert found.histogram.total == rows.size
    assert found.histogram.nonfinite == 0
    assert found.histogram.amax == np.abs(rows).max()
    assert (found.channel_low <= rows).all()
    assert (rows <= found.channel_high).all()


@pytest.mark.parametrize(
    "scheme", SCHEMES, ids=lambda one: f"{one.format}-{one.rule}-{one.symmetric}"
)
@given(ROWS)
@settings(max_examples=30, deadline=None)
def test_every_range_gives_a_scale_that_a_graph_can_hold(scheme: Static, rows: Floats) -> None:
    found = quantizer(observed(rows), scheme)
    check_scales({"fc": found}, where="here")
    assert np.float32(found.scale) >= np.finfo(np.float32).tiny  # a subnormal has no inverse
    returned = fake_quantize(rows, found)
    assert np.isfinite(returned).all()


@pytest.mark.parametrize("symmetric", [True, False])
@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_inside_the_range_a_value_returns_within_half_a_step(symmetric: bool, rows: Floats) -> None:
    found = quantizer(observed(rows), Static(symmetric=symmetric))
    low, high = found.bounds or (-found.amax, found.amax)
    inside = rows[(rows >= low) & (rows <= high)].astype(np.float64)
    returned = fake_quantize(inside.astype(np.float32), found)
    # A zero-point is a whole number: the range moves by up to half a step, and what is cut off
    # there is that little.
    allowed = 0.5 if symmetric else 1.0
    assert (np.abs(returned - inside) <= allowed * found.scale * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    "granularity", [PerTensor(), PerChannel(), PerBlock(2)], ids=lambda one: one.kind
)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("format", [NumberFormat.INT8, NumberFormat.INT4, NumberFormat.INT2])
@given(ROWS, st.booleans())
@settings(max_examples=25, deadline=None)
def test_weights_of_any_magnitude_have_finite_positive_scales(
    format: NumberFormat,
    symmetric: bool,
    granularity: PerTensor | PerChannel | PerBlock,
    weight: Floats,
    clipped: bool,
) -> None:
    scheme = WeightScheme(format, granularity, symmetric, clipped)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = quantize(weight, scheme)
    assert np.isfinite(found.scales).all()
    assert (found.scales > 0).all()
    assert np.isfinite(found.dequantized()).all()
    if symmetric and not clipped:
        steps = spread(found.scales, found.block, weight.shape[1]) * np.ones_like(weight)
        normal = np.abs(weight) <= LARGEST
        lost = np.abs(found.dequantized().astype(np.float64) - weight)
        assert (
            lost[normal]
            <= np.maximum(0.5 * steps[normal].astype(np.float64) * (1 + 1e-5), SMALLEST)
        ).all()


@given(ROWS, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_the_search_for_factors_and_gptq_end_in_finite_numbers(rows: Floats, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((3, rows.shape[1])).astype(np.float32)
    found = search(observed(rows), [weight], RangeRule.MAX)
    check_scales({"fc": found.quantizer}, where="here")
    assert np.isfinite(found.error)
    assert np.isfinite(
        choice_error(observed(rows), [weight], SiteQuantizer(found.quantizer), WeightScheme())
    )
    rounded = gptq(weight, rows, WeightScheme())
    assert (np.abs(rounded.dequantized() - weight) <= 4 * rounded.scales).all()


def test_one_outlier_in_the_rows_leaves_gptq_near_plain_rounding() -> None:
    rng = np.random.default_rng(0)
    weight, rows = (
        rng.standard_normal((6, 16)).astype(np.float32),
        rng.standard_normal((64, 16)).astype(np.float32),
    )
    rows[3, 4] = 1e30
    found, plain = gptq(weight, rows, WeightScheme()), quantize(weight, WeightScheme())
    assert (np.abs(found.values.astype(int) - plain.values) <= 1).all()


@pytest.mark.parametrize("rule", [RangeRule.ENTROPY, RangeRule.MOVING_AVERAGE])
def test_of_a_handful_of_values_no_rule_cuts_any_off(rule: RangeRule) -> None:
    rows = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
    assert quantizer(observed(rows), Static(rule=rule)).amax == np.abs(rows).max()


def test_a_histogram_of_any_magnitude_is_the_sum_of_its_parts() -> None:
    values = np.array([BIGGEST, -1e-45, 0.0, 1e30, -3.0], np.float32)
    parts = [ExponentHistogram.of(values[:2]), ExponentHistogram.of(values[2:])]
    assert parts[0] + parts[1] == ExponentHistogram.of(values)
