"""Counting by torch and by NumPy gives the same, bit for bit.

Two engines' last bits stay inside the tolerance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tasks.graphs.sites import Layer, Site
from tasks.numerics.device_histogram import decoded
from tasks.observation.archive import dump_observation
from tasks.observation.counting import count
from tasks.observation.observer import Observer, SiteObservation
from tests.observation_tolerance import moved, why_apart

Floats = NDArray[np.float32]
LINEAR = Site("fc", "t", -1, (Layer("fc", "n", "MatMul", "w", 1),))
CONV = Site("conv", "i", 1, (Layer("conv", "m", "Conv", "v", 0),))


def activations(seed: int) -> dict[str, Floats]:
    """Draw 4 cases with 7 tokens and 5 channels, and images of 5 channels.

    Magnitudes go from denormal to huge.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((4, 7, 5)) * 10.0 ** rng.integers(-41, 38, (4, 7, 5))
    images = rng.standard_normal((4, 5, 6, 6)) * 10.0 ** rng.integers(-3, 3, (4, 5, 1, 1))
    return {"t": tokens.astype(np.float32), "i": images.astype(np.float32)}


def strange(seed: int) -> dict[str, Floats]:
    found = activations(seed)
    found["t"][1, 2] = [np.nan, np.inf, -np.inf, 0.0, -0.0]
    found["i"][3, 1, 0, 0] = -np.inf
    return found


def observed(
    batches: list[dict[str, Floats]], *, by_torch: bool, divided: bool = False, masked: bool = True
) -> bytes:
    """Return the archive of an observation, so that nothing can differ unseen."""
    smoothing_scales = (
        {name: np.linspace(0.3, 3, 5, dtype=np.float32) for name in ("fc", "conv")}
        if divided
        else None
    )
    observer = Observer((LINEAR, CONV), smoothing_scales)
    for number, batch in enumerate(batches):
        tensors = {name: torch.from_numpy(one) if by_torch else one for name, one in batch.items()}
        mask = np.arange(7)[None, :] < np.array([7, 3, 1, 5])[:, None] if masked else None
        observer.update(tensors, np.arange(4) + 4 * number, mask)  # type: ignore[arg-type]
    return dump_observation(observer.result())


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("make", [activations, strange])
def test_torch_observes_what_numpy_observes_bit_for_bit(make, divided: bool, masked: bool) -> None:  # type: ignore[no-untyped-def]
    batches = [make(seed) for seed in range(3)]
    found = observed(batches, by_torch=True, divided=divided, masked=masked)
    assert found == observed(batches, by_torch=False, divided=divided, masked=masked)


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (3, 0), (70_000, 2)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_tensors_of_any_size_are_counted_alike(shape: tuple[int, int], axis: int) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    left, right = count(values, axis), count(torch.from_numpy(values), axis)
    assert left.histogram == right.histogram
    assert left.histogram.counts.dtype == right.histogram.counts.dtype
    assert np.array_equal(left.low, right.low)
    assert np.array_equal(left.high, right.high)


def test_a_tensor_that_is_not_contiguous_is_counted_alike() -> None:
    values = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    assert count(values.T, -1).histogram == count(torch.from_numpy(values).T, -1).histogram


def test_infinities_are_counted_by_case_alike() -> None:
    values = strange(0)["t"].reshape(-1, 5)
    left, right = count(values, -1), count(torch.from_numpy(values), -1)
    assert left.broken is not None
    assert right.broken is not None
    assert left.broken.tolist() == right.broken.tolist()


def sums(order: int) -> dict[str, SiteObservation]:
    """Run a product [4096, 512] x [512, 64] whose sums are taken in another order each time."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4096, 512)).astype(np.float32)
    weight = rng.standard_normal((512, 64)).astype(np.float32)
    permuted = np.random.default_rng(order).permutation(512)
    observer = Observer((LINEAR,))
    observer.update({"t": (rows[:, permuted] @ weight[permuted])[:, None]}, np.arange(4096))
    return observer.result()


def test_sums_in_another_order_stay_inside_the_tolerance() -> None:
    left, right = sums(1), sums(2)
    assert 0 < moved(left["fc"].histogram, right["fc"].histogram) < 1e-3
    assert why_apart(left, right) is None


@pytest.mark.parametrize("factor", [1.003, 0.99, 1.2])
def test_activations_of_another_precision_do_not(factor: float) -> None:
    left = sums(1)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4096, 512)).astype(np.float32) @ rng.standard_normal(
        (512, 64)
    ).astype(np.float32)
    observer = Observer((LINEAR,))
    observer.update({"t": (values * np.float32(factor))[:, None]}, np.arange(4096))
    assert "fc: amax" in str(why_apart(left, observer.result()))


def test_the_tolerance_names_what_differs() -> None:
    left = sums(1)
    site = left["fc"]
    shifted = replace(
        site, histogram=replace(site.histogram, counts=np.roll(site.histogram.counts, 1))
    )
    wide = replace(site, channel_high=site.channel_high * np.float32(1.1))
    assert "of the counts moved a bin" in str(why_apart(left, {"fc": shifted}))
    assert "extremes differ" in str(why_apart(left, {"fc": wide}))
    assert "the sites differ: ['other']" in str(why_apart(left, {**left, "other": site}))


def bits_of(low: Floats, high: Floats, kind: type[np.generic]) -> NDArray[np.int16 | np.int32]:
    """Return extremes as the device's kernel writes them, the signs of the least turned."""
    bits = np.stack([high.view(np.uint32), low.view(np.uint32) ^ np.uint32(1 << 31)])
    return (bits >> 16 if kind is np.int16 else bits).astype(np.uint32).astype(kind)


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_the_extremes_that_the_kernel_writes_are_read(kind: type[np.generic]) -> None:
    low = np.array([-1.5, -0.0, -np.inf, 0.0, -np.nan], np.float32)
    high = np.array([0.0, 2.0, np.inf, np.nan, 1.0], np.float32)
    found = decoded(bits_of(low, high, kind))  # type: ignore[arg-type]
    nan = np.nan
    assert np.array_equal(found[0], np.float32([-1.5, 0, -np.inf, nan, nan]), equal_nan=True)
    assert np.array_equal(found[1], np.float32([0, 2, np.inf, nan, nan]), equal_nan=True)
    assert not np.signbit(found[0][1])


def test_bfloat16_is_counted_as_the_floats_that_it_stands_for() -> None:
    """Widening is exact, and a bfloat16's bits are the upper half of the float32's."""
    values = torch.from_numpy(activations(0)["t"]).bfloat16()
    ours, wide = count(values, -1), count(values.float().numpy(), -1)
    assert ours.histogram == wide.histogram
    assert np.array_equal(ours.low, wide.low)
    assert ours.low.dtype == ours.high.dtype == np.float32


def test_a_site_in_flight_is_in_every_result() -> None:
    """The last site's counts are fetched late; merging and reading wait for them."""
    left, right = Observer((LINEAR,)), Observer((LINEAR,))
    for number, observer in enumerate((left, right)):
        tensors = {"t": torch.from_numpy(activations(number)["t"])}
        observer.update(tensors, np.arange(4) + 4 * number)
    left.merge(right)
    assert left.result()["fc"].histogram.total == 2 * 4 * 7 * 5
    assert left.result()["fc"].rows.shape == (2 * 4 * 7, 5)
