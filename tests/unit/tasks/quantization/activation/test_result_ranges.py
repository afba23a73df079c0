"""Ranges of what layers make, with a zero-point."""

import numpy as np
import pytest

from tasks.graphs.sites import find_sites
from tasks.numerics.quantizer import fake_quantize
from tasks.observation.observer import Observer, SiteObservation
from tasks.quantization.activation.result_ranges import clipped
from tests import graphs

MODEL = graphs.encoder(16)
[SITE, *_] = find_sites(MODEL)


def observed(values: np.ndarray) -> SiteObservation:
    observer = Observer((SITE,))
    observer.update({SITE.tensor: values.astype(np.float32)}, np.arange(len(values)))
    return observer.result()[SITE.name]


@pytest.fixture
def one_sided() -> np.ndarray:
    """Return what a HardSwish makes: nearly all above zero, with a rare large value."""
    values = np.abs(np.random.default_rng(0).standard_normal((1024, 64, 16)))
    values[0, 0, 0] = 12.0
    values[1, 0, 0] = -0.375
    return values


def loss(values: np.ndarray, tolerance: float) -> float:
    quantizer = clipped(observed(values), tolerance)
    rows = values.reshape(-1, 16).astype(np.float32)
    return float(np.square(fake_quantize(rows, quantizer) - rows).mean())


def test_the_least_is_less_than_the_largest_magnitudes(one_sided: np.ndarray) -> None:
    assert loss(one_sided, 0.0) < 0.5 * loss(one_sided, 1e9)


def test_a_tolerance_widens_the_range_and_costs_no_more_than_it_says(
    one_sided: np.ndarray,
) -> None:
    seen = observed(one_sided)
    ranges = [clipped(seen, tolerance).amax for tolerance in (0.0, 0.1, 0.2, 0.5)]
    assert ranges == sorted(ranges)
    assert ranges[0] < ranges[-1] < 12.0
    assert loss(one_sided, 0.2) <= 1.3 * loss(one_sided, 0.0)


def test_the_bounds_hold_no_values_that_were_not_seen(one_sided: np.ndarray) -> None:
    bounds = clipped(observed(one_sided), 0.1).bounds
    assert bounds is not None
    assert bounds[0] == pytest.approx(-0.375)
    assert clipped(observed(np.full((4, 4, 16), -3.0)), 0.1).bounds == (-3.0, pytest.approx(0.0))
