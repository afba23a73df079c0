"""A ceiling on an observation is the same as clipping what is observed.

A request amax is each request's own.
"""

import numpy as np
import pytest

from infra.engines import open_target
from tasks.graphs.sites import expose, find_sites
from tasks.models.inputs import ImageInputs
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.ceilings import bounded, parse_ceilings, stored_ceilings
from tasks.observation.observer import SiteObservation
from tasks.observation.request_amax import SiteValues, watch_amax
from tasks.observation.watch import watch
from tests.unit.benchmarks.test_benchmarks import convnet


def observed(values: np.ndarray) -> SiteObservation:
    histogram = ExponentHistogram.of(values)
    return SiteObservation(histogram, values.min(axis=0), values.max(axis=0), values)


def test_it_equals_the_observation_of_clipped_values() -> None:
    values = np.random.default_rng(0).normal(0, 3, (500, 4)).astype(np.float32)
    found = bounded({"a": observed(values), "b": observed(values)}, {SiteValues("a"): 2.5})
    clipped = observed(np.clip(values, -2.5, 2.5))
    assert found["a"].histogram == clipped.histogram
    assert np.array_equal(found["a"].channel_amax, clipped.channel_amax)
    assert np.array_equal(found["a"].rows, clipped.rows)
    assert found["b"].histogram.amax == np.abs(values).max()


def test_a_ceiling_above_everything_changes_nothing() -> None:
    site = observed(np.ones((3, 2), np.float32))
    assert bounded({"a": site}, {SiteValues("a"): 7.0})["a"] is site


def test_ceilings_are_stored_by_name_and_read_again() -> None:
    ceilings = {SiteValues("a"): 2.0, SiteValues("a", smoothed=True): 3.0}
    assert stored_ceilings(ceilings) == {"a": 2.0, "a / factors": 3.0}
    assert parse_ceilings(stored_ceilings(ceilings)) == ceilings


def test_the_amax_of_requests_add_up_to_what_is_observed_of_all() -> None:
    model = convnet()
    sites = find_sites(model)
    engine = open_target("onnxruntime-cpu").load(expose(model, sites).SerializeToString())
    images = list(np.random.default_rng(1).random((11, 1, 8, 8)).astype(np.float32))
    images[3] *= 20
    images[6] *= 0
    inputs = ImageInputs((1, 8, 8))
    found = watch_amax(engine, sites, inputs, images)
    together = watch(engine, sites, inputs, images)
    assert found.columns == tuple(SiteValues(site.name) for site in sites)
    for place, site in enumerate(sites):
        assert found.amax[:, place].max() == pytest.approx(together[site.name].histogram.amax)
        assert found.amax[:, place].argmax() == 3
    assert found.amax[6, 0] == found.rms[6, 0] == 0
    assert found.rms[3, 0] == pytest.approx(np.sqrt(np.square(images[3]).mean()), rel=1e-5)


def test_factors_of_a_deployed_graph_get_a_column_of_their_own() -> None:
    model = convnet()
    sites = find_sites(model)
    engine = open_target("onnxruntime-cpu").load(expose(model, sites).SerializeToString())
    images = list(np.random.default_rng(1).random((3, 1, 8, 8)).astype(np.float32))
    last = sites[-1]
    width = watch(engine, sites, ImageInputs((1, 8, 8)), images)[last.name].channel_amax.shape
    found = watch_amax(
        engine, sites, ImageInputs((1, 8, 8)), images, {last.name: np.full(width, 2, np.float32)}
    )
    assert found.columns[-2:] == (SiteValues(last.name), SiteValues(last.name, smoothed=True))
    assert found.amax[:, -1] == pytest.approx(found.amax[:, -2] / 2)
