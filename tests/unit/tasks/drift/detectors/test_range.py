"""The range detector: stale scales are found, healthy ones are left alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.drift.detectors.range import RangeLimits, judge_ranges, range_increments, relative_error
from tasks.drift.evidence import ACTING, Alarms, Evidence, with_window
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.clipped_fraction import Clipping
from tasks.records import DetectorResult, Health

REQUESTS = 100
NOBODY = Clipping((), np.zeros((REQUESTS, 0)), np.zeros((REQUESTS, 0)))


def activations(seed: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    """Like a digit image: half of it empty, and many elements at the very top."""
    generator = np.random.default_rng(seed)
    values = np.clip(generator.normal(0.2, 0.6, 50_000), 0, 1)
    return (values * scale).astype(np.float32)


def clipping(live: dict[str, NDArray[np.float32]], clip: float = 1.0) -> Clipping:
    """Return the clipping of requests: every so many values are a request's."""
    each = {name: np.abs(values).reshape(REQUESTS, -1) for name, values in live.items()}
    above = np.stack([(values > clip).mean(axis=1) for values in each.values()], axis=1)
    return Clipping(
        tuple(live), above, np.stack([values.max(axis=1) for values in each.values()], axis=1)
    )


def looked(
    live: NDArray[np.float32], clip: float = 1.0, reference: NDArray[np.float32] | None = None
) -> DetectorResult:
    before = activations() if reference is None else reference
    return judge_ranges(
        {"conv1": ExponentHistogram.of(live)},
        {"conv1": ExponentHistogram.of(before)},
        {"conv1": clip},
        clipping({"conv1": live}, clip),
    )


@pytest.mark.parametrize("exposure", [4, 8])
def test_inputs_four_and_eight_times_brighter_make_the_scale_stale(exposure: float) -> None:
    result = looked(activations(1, exposure))
    assert result.health is Health.DEGRADED
    assert result.findings[0].subject == "layer conv1"
    assert result.findings[0].exceeded
    assert f"live maximum {exposure}" in result.findings[0].text


@pytest.mark.parametrize("exposure", [0.87, 1.0, 1.13])
def test_maxima_that_differ_by_13_percent_are_fine(exposure: float) -> None:
    assert looked(activations(1, exposure)).health is Health.FINE


def test_a_few_elements_above_amax_are_fine_however_large() -> None:
    live = activations(1)
    live[:100] = 30.0  # 0.2 %
    assert looked(live).health is Health.FINE


@pytest.mark.parametrize(("requests", "stale"), [(5, False), (8, False), (35, True)])
def test_requests_that_reach_far_make_a_scale_stale_only_where_many_do(
    requests: int, stale: bool
) -> None:
    """New scales would not follow a few either: they are set aside, or stay below a ceiling."""
    live = activations(1).reshape(REQUESTS, -1)
    live[:requests] *= 1000
    result = looked(live.ravel())
    assert (result.health is Health.DEGRADED) is stale
    assert result.findings[0].value > result.findings[0].limit
    assert ("too few requests to act on" in result.findings[0].text) is not stale


def test_evidence_that_requests_are_clipped_adds_up_over_windows() -> None:
    reference, rules, known = (
        {"conv1": ExponentHistogram.of(activations())},
        Alarms(1000.0 * ACTING),
        Evidence(),
    )
    found = []
    for window in range(12):
        live = activations(window).reshape(REQUESTS, -1)
        live[:18] *= 3
        seen = clipping({"conv1": live.ravel()})
        known = with_window(
            known, str(window), None, range_increments(seen, reference, {"conv1": 1.0}), rules
        )
        histograms = {"conv1": ExponentHistogram.of(live)}
        found.append(
            judge_ranges(
                histograms, reference, {"conv1": 1.0}, seen, evidence=known, rules=rules
            ).health
        )
    assert found[0] is Health.FINE
    assert found[-1] is Health.DEGRADED


def test_no_window_in_which_nothing_changed_is_called_out() -> None:
    """A hundred requests a window, and a scale from the largest value of as many others."""
    rng, rules, known = np.random.default_rng(0), Alarms(1000.0 * ACTING), Evidence()
    usual = rng.standard_normal((REQUESTS, 500)).astype(np.float32)
    clip, reference = float(np.abs(usual).max()), {"a": ExponentHistogram.of(usual)}
    for window in range(300):
        live = rng.standard_normal((REQUESTS, 500)).astype(np.float32)
        seen = clipping({"a": live.ravel()}, clip)
        known = with_window(
            known, str(window), None, range_increments(seen, reference, {"a": clip}), rules
        )
        assert not known.alarmed


def test_without_knowing_the_requests_the_error_alone_decides() -> None:
    live, reference = (
        {"a": ExponentHistogram.of(activations(1, 8))},
        {"a": ExponentHistogram.of(activations())},
    )
    unknown = Clipping(("a",), np.full((REQUESTS, 1), np.nan), np.full((REQUESTS, 1), np.nan))
    result = judge_ranges(live, reference, {"a": 1.0}, unknown)
    assert result.health is Health.DEGRADED
    assert "evidence" not in result.findings[0].text


def test_exceedance_that_the_calibration_set_had_as_well_is_fine() -> None:
    """A percentile or MSE rule clips on purpose."""
    values = np.random.default_rng(0).standard_t(3, 50_000).astype(np.float32)
    again = np.random.default_rng(1).standard_t(3, 50_000).astype(np.float32)
    assert looked(again, clip=3.0, reference=values).health is Health.FINE


def test_a_range_of_which_most_lies_idle_is_stale() -> None:
    result = looked(activations(1, 1 / 32))
    assert result.health is Health.DEGRADED
    assert "5.0 bits idle" in result.findings[0].text


def test_an_outlier_that_todays_sample_lacks_is_no_idle_range() -> None:
    before = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * 0.1
    live = np.random.default_rng(1).standard_normal(100_000).astype(np.float32) * 0.1
    before[0] = 24.7
    assert looked(live, clip=24.7, reference=before).health is Health.FINE


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_a_finding(bad: float) -> None:
    live = activations(1)
    live[3] = bad
    result = looked(live)
    assert result.health is Health.DEGRADED
    assert "1 live activations are infinite or NaN" in result.findings[0].text


def test_findings_name_each_layer_the_worst_first() -> None:
    values = {name: activations(1, scale) for name, scale in (("a", 1), ("b", 8), ("c", 3))}
    live = {name: ExponentHistogram.of(one) for name, one in values.items()}
    reference = {name: ExponentHistogram.of(activations()) for name in live}
    result = judge_ranges(live, reference, dict.fromkeys(live, 1.0), clipping(values))
    assert [finding.subject for finding in result.findings] == [
        "all layers",
        "layer b",
        "layer c",
        "layer a",
    ]
    assert [finding.exceeded for finding in result.findings] == [True, True, True, False]


def test_a_layer_that_was_not_observed_is_never_fine() -> None:
    assert judge_ranges({}, {}, {"conv1": 1.0}, NOBODY).health is Health.INCONCLUSIVE
    empty = {"conv1": ExponentHistogram.empty()}
    assert judge_ranges(empty, empty, {"conv1": 1.0}, NOBODY).health is Health.INCONCLUSIVE


def test_too_few_requests_are_inconclusive() -> None:
    live = {"conv1": ExponentHistogram.of(activations(1, 8))}
    result = judge_ranges(live, live, {"conv1": 1.0}, NOBODY, minimum=REQUESTS + 1)
    assert result.health is Health.INCONCLUSIVE


def test_a_model_without_quantizers_has_no_stale_scale() -> None:
    assert judge_ranges({}, {}, {}, NOBODY).health is Health.FINE


def test_all_zero_activations_are_fine() -> None:
    assert looked(np.zeros(100, np.float32)).health is Health.FINE


def test_limits_can_be_tightened() -> None:
    values = activations(1, 1.13)
    live = {"conv1": ExponentHistogram.of(values)}
    reference = {"conv1": ExponentHistogram.of(activations())}
    limits = RangeLimits(clipping_error=0.001)
    assert (
        judge_ranges(
            live, reference, {"conv1": 1.0}, clipping({"conv1": values}), limits=limits
        ).health
        is Health.DEGRADED
    )


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
