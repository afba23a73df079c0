"""The range lens: stale scales are found, healthy ones are left alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.drift.range import RangeLimits, range_lens, relative_error
from tasks.observation.histogram import ExponentHistogram
from tasks.records import Health, LensReading


def activations(seed: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    """Like a digit image: half of it empty, and many elements at the very top."""
    generator = np.random.default_rng(seed)
    values = np.clip(generator.normal(0.2, 0.6, 50_000), 0, 1)
    return (values * scale).astype(np.float32)


def looked(live: NDArray[np.float32], clip: float = 1.0, reference: NDArray[np.float32] | None = None) -> LensReading:
    before = activations() if reference is None else reference
    return range_lens(
        {"conv1": ExponentHistogram.of(live)}, {"conv1": ExponentHistogram.of(before)}, {"conv1": clip}, count=100
    )


@pytest.mark.parametrize("exposure", [4, 8])
def test_inputs_four_and_eight_times_brighter_make_the_scale_stale(exposure: float) -> None:
    reading = looked(activations(1, exposure))
    assert reading.health is Health.DEGRADED
    assert reading.findings[0].subject == "layer conv1"
    assert reading.findings[0].exceeded
    assert f"live maximum {exposure}" in reading.findings[0].text


@pytest.mark.parametrize("exposure", [0.87, 1.0, 1.13])
def test_maxima_that_differ_by_13_percent_are_fine(exposure: float) -> None:
    assert looked(activations(1, exposure)).health is Health.FINE


def test_a_few_elements_above_amax_are_fine_however_large() -> None:
    live = activations(1)
    live[:100] = 30.0  # 0.2 %
    assert looked(live).health is Health.FINE


def test_exceedance_that_the_calibration_set_had_as_well_is_fine() -> None:
    """A percentile or MSE rule clips on purpose."""
    values = np.random.default_rng(0).standard_t(3, 50_000).astype(np.float32)
    again = np.random.default_rng(1).standard_t(3, 50_000).astype(np.float32)
    assert looked(again, clip=3.0, reference=values).health is Health.FINE


def test_a_range_of_which_most_lies_idle_is_stale() -> None:
    reading = looked(activations(1, 1 / 32))
    assert reading.health is Health.DEGRADED
    assert "5.0 bits idle" in reading.findings[0].text


def test_an_outlier_that_todays_sample_lacks_is_no_idle_range() -> None:
    before = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * 0.1
    live = np.random.default_rng(1).standard_normal(100_000).astype(np.float32) * 0.1
    before[0] = 24.7
    assert looked(live, clip=24.7, reference=before).health is Health.FINE


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_a_finding(bad: float) -> None:
    live = activations(1)
    live[3] = bad
    reading = looked(live)
    assert reading.health is Health.DEGRADED
    assert "1 live activations are infinite or NaN" in reading.findings[0].text


def test_findings_name_each_layer_the_worst_first() -> None:
    live = {name: ExponentHistogram.of(activations(1, scale)) for name, scale in (("a", 1), ("b", 8), ("c", 3))}
    reference = {name: ExponentHistogram.of(activations()) for name in live}
    reading = range_lens(live, reference, dict.fromkeys(live, 1.0), count=100)
    assert [finding.subject for finding in reading.findings] == ["all layers", "layer b", "layer c", "layer a"]
    assert [finding.exceeded for finding in reading.findings] == [True, True, True, False]


def test_a_layer_that_was_not_observed_is_never_fine() -> None:
    assert range_lens({}, {}, {"conv1": 1.0}, count=5).health is Health.INCONCLUSIVE
    empty = {"conv1": ExponentHistogram.empty()}
    assert range_lens(empty, empty, {"conv1": 1.0}, count=5).health is Health.INCONCLUSIVE


def test_too_few_requests_are_inconclusive() -> None:
    live = {"conv1": ExponentHistogram.of(activations(1, 8))}
    reading = range_lens(live, live, {"conv1": 1.0}, count=3, minimum=64)
    assert reading.health is Health.INCONCLUSIVE


def test_a_model_without_quantizers_has_no_stale_scale() -> None:
    assert range_lens({}, {}, {}, count=5).health is Health.FINE


def test_all_zero_activations_are_fine() -> None:
    assert looked(np.zeros(100, np.float32)).health is Health.FINE


def test_limits_can_be_tightened() -> None:
    live = {"conv1": ExponentHistogram.of(activations(1, 1.13))}
    reference = {"conv1": ExponentHistogram.of(activations())}
    limits = RangeLimits(clipping_error=0.001)
    assert range_lens(live, reference, {"conv1": 1.0}, count=9, limits=limits).health is Health.DEGRADED


@pytest.mark.parametrize("clip", [0.3, 1.0, 5.0])
def test_the_estimated_error_agrees_with_quantizing_for_real(clip: float) -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    step = clip / 127
    quantized = np.clip(np.round(values / step), -127, 127) * step
    real = float(((quantized - values) ** 2).mean() / (values**2).mean())
    assert relative_error(ExponentHistogram.of(values), clip) == pytest.approx(real, rel=0.05)


def test_values_that_saturate_at_the_clip_do_not_exceed_it() -> None:
    live = activations(1)
    live[0] = 1.1  # makes the histogram alone unable to tell 1.0 from above 1.0
    assert "conv1: 0" in looked(live).findings[0].text
    assert "conv1: 0 %" in looked(activations(1), reference=activations(scale=0.5)).findings[0].text
