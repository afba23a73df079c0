from __future__ import annotations

import numpy as np
import pytest

from tasks.serving.objectives import ERRORS, LATENCY, objectives_of, waits_s, watching
from tasks.specs.serving import FallbackSpec

SPEC = FallbackSpec(latency_ms=20, late=0.05, errors=0.01, back_after_s=10)


def test_each_limit_of_the_spec_is_a_claim_about_a_mean() -> None:
    assert {each.name: each.least for each in objectives_of(SPEC)} == {LATENCY: 0.95, ERRORS: 0.99}


def test_a_broken_limit_is_found_within_tens_of_answers_after_a_long_good_time() -> None:
    watch = watching(SPEC)
    for _ in range(2000):
        watch = watch.looked({LATENCY: np.ones(8), ERRORS: np.ones(8)})
    assert not watch.broken(1e8)
    looks = 0
    while not watch.broken(1e8):
        watch, looks = watch.looked({ERRORS: np.zeros(1)}), looks + 1
        assert looks < 20
    assert watch.broken(1e8) == (ERRORS,)
    assert "the mean score of" in watch.told([ERRORS])


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_that_lie_exactly_on_their_limits_set_no_alarm_off(seed: int) -> None:
    rng = np.random.default_rng(seed)
    watch = watching(SPEC)
    for _ in range(2000):
        late, failed = rng.random(16) < 0.05, rng.random(16) < 0.01
        watch = watch.looked({LATENCY: 1.0 - late, ERRORS: 1.0 - failed})
        assert not watch.broken(1e8)


def test_recovery_wants_probes_that_keep_every_limit() -> None:
    watch = watching(SPEC)
    assert not watch.recovered(1e8)
    few = watch.looked({ERRORS: np.ones(5), LATENCY: np.ones(5)})
    assert not few.recovered(1e8)
    assert not few.looked({ERRORS: np.ones(50)}).recovered(1e8)
    assert few.looked({ERRORS: np.ones(50), LATENCY: np.ones(50)}).recovered(1e8)
    assert not few.looked({ERRORS: np.zeros(50), LATENCY: np.ones(50)}).recovered(1e8)


def test_a_release_that_falls_again_stays_out_twice_as_long() -> None:
    assert [waits_s(SPEC, falls) for falls in (1, 2, 3)] == [10, 20, 40]
    assert waits_s(SPEC, 99) == 10 * 2**10
