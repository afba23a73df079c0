"""Who is set aside, and who is only part of a shift."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from tasks.observation.request_amax import RequestAmax, SiteValues
from tasks.records import Request, Sample
from tasks.sampling.calibration import offer
from tasks.sampling.judgement import judge
from tasks.sampling.quarantine import ceilings, document, quantile, quarantine, stretching
from tasks.specs.drift import CalibrationSpec

TIME = datetime(2026, 3, 1, tzinfo=UTC)
RNG = np.random.default_rng(0)
FIRST, SECOND = SiteValues("first"), SiteValues("second")
ANCHORS = RNG.uniform(0.9, 1.1, (64, 2))


def requests(count: int, tenants: int = 5) -> list[Request]:
    return [
        Request(f"r{i}", TIME, f"t{i % tenants}", "docs", "en", f"text {i}") for i in range(count)
    ]


def request_amax(peaks: np.ndarray) -> RequestAmax:
    return RequestAmax((FIRST, SECOND), peaks, peaks / 3)


def honest(count: int, level: float = 1.0) -> np.ndarray:
    return level * np.random.default_rng(1).uniform(0.9, 1.1, (count, 2))


def set_aside(
    peaks: np.ndarray, who: list[Request] | None = None, weights: np.ndarray | None = None
) -> set[str]:
    who = who or requests(len(peaks))
    found = quarantine(
        who, request_amax(peaks), np.ones(len(peaks)) if weights is None else weights, ANCHORS
    )
    return {one.request_id for one in found}


def test_a_few_extreme_requests_are_set_aside_with_site_and_figures() -> None:
    peaks = honest(100)
    peaks[7, 1] = 50
    (found,) = quarantine(requests(100), request_amax(peaks), np.ones(100), ANCHORS)
    assert (found.request_id, found.tenant) == ("r7", "t2")
    assert found.reason.startswith(
        "it reaches 50 at second, where hardly any other request comes near: up to 2."
    )
    entry = document([found], "w")["entries"][0]  # type: ignore[index]
    assert entry["sites"][0]["site"] == "second"
    assert "text" not in str(entry)


@pytest.mark.parametrize("level", [4.0, 8.0, 100.0])
def test_a_shift_that_everybody_shares_is_left_alone(level: float) -> None:
    assert not set_aside(honest(100, level))


def test_half_of_the_traffic_at_twice_the_exposure_is_a_shift() -> None:
    peaks = np.concatenate([honest(60, 4.0), honest(60, 8.0)])
    assert not set_aside(peaks)


def test_a_tenant_whose_requests_alone_extend_a_range_is_set_aside_though_it_sends_a_fifth() -> (
    None
):
    peaks = honest(100)
    peaks[::5] *= 1000
    assert set_aside(peaks) == {f"r{i}" for i in range(0, 100, 5)}
    shared = honest(100)
    shared[::3] *= 1000
    assert not set_aside(shared)


def test_a_lone_tenant_is_judged_by_its_own_level() -> None:
    peaks = honest(100)
    peaks[3] *= 10
    assert set_aside(peaks, requests(100, tenants=1)) == {"r3"}
    assert not set_aside(honest(100, 9.0), requests(100, tenants=1))


def test_places_that_floors_gave_do_not_make_a_shift() -> None:
    """A third of the sample, that stands for a hundredth of the traffic."""
    peaks = honest(90)
    peaks[60:] *= 30
    weights = np.where(np.arange(90) < 60, 1.0, 0.02)
    assert set_aside(peaks, requests(90, 90), weights) == {f"r{i}" for i in range(60, 90)}


def test_what_the_calibration_pool_reaches_is_never_far() -> None:
    anchors = ANCHORS.copy()
    anchors[0] = 40
    peaks = honest(100)
    peaks[7] = 39
    assert not quarantine(requests(100), request_amax(peaks), np.ones(100), anchors)


def test_infinite_activations_are_set_aside_unless_they_are_the_rule() -> None:
    peaks = honest(100)
    peaks[4] = np.inf
    assert set_aside(peaks) == {"r4"}
    peaks[:50] = np.inf
    assert not set_aside(peaks)


def test_too_few_requests_and_sites_that_nobody_reaches_tell_nothing() -> None:
    assert not set_aside(np.concatenate([honest(10), honest(1, 99.0)]))
    assert not set_aside(np.zeros((50, 2)))


def test_ceilings_end_a_range_where_too_little_of_the_traffic_reaches() -> None:
    peaks = honest(100)
    peaks[:5, 0] = 1.9  # not far, and only 5 %
    found = ceilings(request_amax(peaks), np.ones(100), ANCHORS, 0.06)
    assert found[FIRST] == pytest.approx(1.02 * np.sort(peaks[:, 0])[93], rel=0.03)
    assert ceilings(request_amax(peaks), np.ones(100), ANCHORS, 0.0) == {}
    peaks[:8, 0] = 1.9
    assert FIRST not in ceilings(request_amax(peaks), np.ones(100), ANCHORS, 0.06)


def test_a_ceiling_never_cuts_off_what_the_pool_reaches() -> None:
    anchors = np.concatenate([ANCHORS, np.full((1, 2), 1.7)])
    peaks = honest(100)
    peaks[0, 0] = 1.9
    assert ceilings(request_amax(peaks), np.ones(100), anchors, 0.06)[FIRST] == 1.7


def test_requests_above_most_ceilings_are_set_aside_though_far_outside_at_none() -> None:
    peaks = honest(100)
    peaks[:5] *= 1.6
    peaks[5:10, 0] *= 1.6
    found = stretching(requests(100), request_amax(peaks), {FIRST: 1.2, SECOND: 1.2})
    assert {one.request_id for one in found} >= {"r0", "r4"}
    assert not stretching(requests(100), request_amax(peaks), {})


def test_a_weighted_quantile_is_that_of_the_repeated_values() -> None:
    values = np.asarray([[1.0], [2.0], [3.0]])
    assert quantile(values, np.asarray([0.8, 0.1, 0.1]), 0.8)[0] == 1
    assert quantile(values, np.asarray([0.8, 0.1, 0.1]), 0.85)[0] == 2
    assert quantile(values, np.asarray([0.1, 0.1, 0.8]), 1.0)[0] == 3


def test_the_judgement_takes_anchors_from_below_the_live_rows() -> None:
    live = requests(60)
    pool = [
        replace(one, request_id=f"p{i}", payload=f"pool {i}") for i, one in enumerate(requests(30))
    ]
    offered = offer(Sample(tuple(live), "d", 60, {}), pool, golden=())
    peaks = np.concatenate([honest(60), ANCHORS[:30]])
    peaks[11] *= 99
    judged = judge(offered, request_amax(peaks), {}, CalibrationSpec())
    assert [one.request_id for one in judged.quarantined] == ["r11"]
    assert not judge(
        offered, request_amax(peaks), {}, CalibrationSpec(quarantine=False)
    ).quarantined
    assert offered.without({"r11"}, "quarantined").dropped["quarantined"] == 1
