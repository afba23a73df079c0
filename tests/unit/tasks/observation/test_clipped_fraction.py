"""How far each request goes is its own affair.

It is not that of its batch, its padding or the other requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.engines import open_target
from tasks.graphs.sites import Layer, Site, expose, find_sites
from tasks.models.batches import Batch
from tasks.models.inputs import ImageInputs
from tasks.observation.clipped_fraction import watch_clipping
from tasks.observation.watch import watch
from tests.unit.benchmarks.test_benchmarks import convnet

Floats = NDArray[np.float32]
LINEAR = Site("fc", "t", -1, (Layer("fc", "n", "MatMul", "w", 1),))
POOLED = Site("pooled", "p", -1, LINEAR.layers)
CHANNELS = 3


class Doubling:
    """An engine with a tensor of every token, and one whose rows belong to no request."""

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, Floats]:
        values = np.asarray(feeds["x"], np.float32) * 2
        return {"t": values, "p": values.reshape(-1, CHANNELS)[:1]}


class Padded:
    """A batcher of texts of different lengths, so many at a time."""

    output, profile = "y", {}  # type: ignore[var-annotated]  # no shapes

    def __init__(self, size: int) -> None:
        self.size = size

    def batches(self, payloads: Sequence[Floats]):  # type: ignore[no-untyped-def]
        for start in range(0, len(payloads), self.size):
            part = payloads[start : start + self.size]
            values = np.full((len(part), max(map(len, part)) + 2, CHANNELS), 1e6, np.float32)
            mask = np.zeros(values.shape[:2], bool)
            for row, one in enumerate(part):
                values[row, : len(one)], mask[row, : len(one)] = one, True
            yield Batch({"x": values}, np.arange(start, start + len(part)), mask)


TEXTS = [
    np.full((length, CHANNELS), value, np.float32)
    for length, value in ((2, 1.0), (5, 3.0), (1, 9.0), (4, 0.5))
]
TEXTS[1][0] = 0


@pytest.mark.parametrize("size", [1, 3, 4])
def test_padding_counts_neither_as_a_value_nor_as_a_place(size: int) -> None:
    seen, clipping = watch_clipping(Doubling(), (LINEAR,), Padded(size), TEXTS, {"fc": 4.0})
    assert clipping.sites == ("fc",)
    assert clipping.fraction[:, 0].tolist() == pytest.approx([0, 0.8, 1, 0])
    assert clipping.amax[:, 0].tolist() == [2, 6, 18, 1]
    assert seen["fc"].histogram == watch(Doubling(), (LINEAR,), Padded(4), TEXTS)["fc"].histogram


def test_factors_divide_before_the_scale_is_held_against_it() -> None:
    halves = {"fc": np.full(CHANNELS, 2, np.float32)}
    _, clipping = watch_clipping(Doubling(), (LINEAR,), Padded(2), TEXTS, {"fc": 4.0}, halves)
    assert clipping.fraction[:, 0].tolist() == pytest.approx([0, 0, 1, 0])
    assert clipping.amax[:, 0].tolist() == [1, 3, 9, 0.5]


def test_rows_of_no_known_request_are_not_a_number() -> None:
    _, clipping = watch_clipping(
        Doubling(), (LINEAR, POOLED), Padded(4), TEXTS, {"fc": 4.0, "pooled": 4.0}
    )
    assert np.isnan(clipping.fraction[:, 1]).all()
    assert np.isfinite(clipping.fraction[:, 0]).all()


def test_the_shares_of_images_add_up_to_what_is_observed_of_all() -> None:
    model = convnet()
    sites = find_sites(model)
    engine = open_target("onnxruntime-cpu").load(expose(model, sites).SerializeToString())
    images = list(np.random.default_rng(1).random((11, 1, 8, 8)).astype(np.float32))
    images[3] *= 20
    seen, clipping = watch_clipping(
        engine, sites, ImageInputs((1, 8, 8)), images, dict.fromkeys([s.name for s in sites], 1.0)
    )
    together = watch(engine, sites, ImageInputs((1, 8, 8)), images)
    for place, site in enumerate(sites):
        assert seen[site.name].histogram == together[site.name].histogram
        assert clipping.fraction[:, place].mean() == pytest.approx(
            seen[site.name].histogram.fraction_above(1.0), abs=0.01
        )
        assert clipping.amax[:, place].argmax() == 3
    assert clipping.rows(np.arange(11) == 3).amax.shape == (1, len(sites))
