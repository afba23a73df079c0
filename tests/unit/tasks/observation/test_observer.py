"""The observer's answer depends on the data alone: not on batches, order or padding."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.graphs.sites import Layer, Site
from tasks.models.batches import Batch
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.finite import require_finite
from tasks.observation.observer import ROWS, Observer, SiteObservation
from tasks.observation.watch import watch

Floats = NDArray[np.float32]
LINEAR = Site("fc", "t", -1, (Layer("fc", "n", "MatMul", "w", 1),))
CONV = Site("conv", "t", 1, (Layer("conv", "n", "Conv", "w", 0),))
CHANNELS = 3


def texts(seed: int, count: int = 12) -> list[Floats]:
    """Draw activations of texts of 1 to 9 tokens, [tokens, channels] each."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((rng.integers(1, 10), CHANNELS)) * 10.0 ** rng.integers(-3, 4)).astype(
            np.float32
        )
        for _ in range(count)
    ]


def padded(
    cases: list[Floats], longest: int, filler: float = 1e9
) -> tuple[Floats, NDArray[np.bool_]]:
    values = np.full((len(cases), longest, CHANNELS), filler, np.float32)
    mask = np.zeros((len(cases), longest), bool)
    for row, case in enumerate(cases):
        values[row, : len(case)] = case
        mask[row, : len(case)] = True
    return values, mask


def observed(
    cases: list[Floats],
    batches: list[list[int]],
    smoothing_scales: Mapping[str, Floats] | None = None,
    extra: int = 0,
) -> SiteObservation:
    observer = Observer((LINEAR,), smoothing_scales)
    for batch in batches:
        values, mask = padded([cases[i] for i in batch], max(len(cases[i]) for i in batch) + extra)
        observer.update({"t": values}, np.asarray(batch, np.int64), mask)
    return observer.result()["fc"]


def assert_same(left: SiteObservation, right: SiteObservation) -> None:
    assert left.histogram == right.histogram
    assert left.channel_amax.tobytes() == right.channel_amax.tobytes()
    assert left.rows.shape == right.rows.shape
    assert left.rows.tobytes() == right.rows.tobytes()


@given(
    st.integers(0, 5),
    st.permutations(range(12)),
    st.lists(st.integers(1, 11), max_size=5),
    st.integers(0, 4),
)
@settings(max_examples=40, deadline=None)
def test_any_split_order_and_padding_gives_the_same_result_bit_for_bit(
    seed: int, order: list[int], cuts: list[int], extra: int
) -> None:
    bounds = sorted({0, 12, *cuts})
    batches = [order[start:end] for start, end in pairwise(bounds)]
    smoothing_scales = {"fc": np.array([0.3, 1, 7], np.float32)}
    whole = observed(texts(seed), [list(range(12))], smoothing_scales)
    assert_same(observed(texts(seed), batches, smoothing_scales, extra), whole)


def test_many_rows_are_sampled_alike_however_they_were_batched() -> None:
    cases = [text for seed in range(20) for text in texts(seed)]
    everything = list(range(len(cases)))
    batches = [everything[start : start + 7] for start in range(0, len(everything), 7)]
    assert_same(observed(cases, batches[::-1]), observed(cases, [everything]))
    assert len(observed(cases, batches).rows) == ROWS


def test_padding_is_not_observed() -> None:
    found = observed(texts(0), [list(range(12))])
    rows = np.concatenate(texts(0))
    assert found.histogram == ExponentHistogram.of(rows)
    assert (found.channel_amax == np.abs(rows).max(axis=0)).all()
    assert found.rows.max() < 1e9


def test_without_a_mask_every_row_counts() -> None:
    observer = Observer((LINEAR,))
    values = np.random.default_rng(0).standard_normal((4, 5, CHANNELS)).astype(np.float32)
    observer.update({"t": values}, np.arange(4))
    assert observer.result()["fc"].histogram == ExponentHistogram.of(values)


def test_a_pooled_activation_is_not_masked_by_tokens() -> None:
    observer = Observer((LINEAR,))
    pooled = np.ones((2, CHANNELS), np.float32)
    observer.update(
        {"t": pooled}, np.arange(2), np.array([[True, False, False], [True, True, False]])
    )
    assert observer.result()["fc"].histogram.total == pooled.size


def test_divisors_show_what_the_deployed_quantizer_sees() -> None:
    smoothing_scales = np.array([2.0, 0.5, 10.0], np.float32)
    found = observed(texts(1), [list(range(12))], {"fc": smoothing_scales})
    assert found.histogram == ExponentHistogram.of(np.concatenate(texts(1)) / smoothing_scales)


def test_kept_rows_are_a_uniform_sample() -> None:
    # 40 texts of 50 tokens; a row's value is its own number, so that the sample tells which rows it
    # holds.
    values = np.arange(2000, dtype=np.float32).reshape(40, 50, 1) + 1
    observer = Observer((LINEAR,))
    observer.update({"t": values}, np.arange(40))
    kept = observer.result()["fc"].rows[:, 0] - 1
    assert len(set(kept.tolist())) == ROWS
    for parts in (kept // 50 // 10, kept % 50 // 10):  # by text, and by place in the text
        counts = np.bincount(parts.astype(int))
        expected = ROWS / len(counts)
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert statistic < 18.5  # chi-squared, four degrees of freedom, p = 0.001


def test_images_are_observed_by_channel() -> None:
    values = np.random.default_rng(0).standard_normal((6, CHANNELS, 4, 4)).astype(np.float32)
    observer = Observer((CONV,))
    for start in (0, 2, 5):
        part = values[start : {0: 2, 2: 5, 5: 6}[start]]
        observer.update({"t": part}, np.arange(len(part)))
    found = observer.result()["conv"]
    assert found.histogram == ExponentHistogram.of(values)
    assert (found.channel_amax == np.abs(values).max(axis=(0, 2, 3))).all()
    assert found.rows.size == 0


@given(
    st.integers(0, 5),
    st.permutations(range(12)),
    st.lists(st.integers(1, 11), max_size=5),
    st.integers(0, 11),
)
@settings(max_examples=20, deadline=None)
def test_the_same_pixels_are_kept_however_images_were_batched_and_merged(
    seed: int, order: list[int], cuts: list[int], apart: int
) -> None:
    images = np.random.default_rng(seed).standard_normal((12, CHANNELS, 5, 6)).astype(np.float32)
    smoothing_scales = {"conv": np.array([0.3, 1, 7], np.float32)}
    whole, first, second = (Observer((CONV,), smoothing_scales) for _ in range(3))
    whole.update({"t": images}, np.arange(12))
    for number, (start, end) in enumerate(pairwise(sorted({0, 12, *cuts}))):
        part = order[start:end]
        (first if number < apart else second).update(
            {"t": images[part]}, np.asarray(part, np.int64)
        )
    first.merge(second)
    found, expected = first.result()["conv"], whole.result()["conv"]
    assert found.pixels.tobytes() == expected.pixels.tobytes()
    assert found.histogram == expected.histogram
    assert found.pixels.shape == (ROWS, CHANNELS)
    seen = {
        pixel.tobytes()
        for pixel in np.moveaxis(images, 1, -1).reshape(-1, CHANNELS) / smoothing_scales["conv"]
    }
    assert {pixel.tobytes() for pixel in found.pixels} <= seen
    assert found.channel_high == pytest.approx(
        images.max(axis=(0, 2, 3)) / smoothing_scales["conv"]
    )


def test_nan_stays_visible() -> None:
    cases = texts(0)
    cases[3][0, 1] = np.nan
    found = observed(cases, [list(range(6)), list(range(6, 12))])
    assert found.histogram.nonfinite == 1
    assert np.isnan(found.channel_amax[1])


def test_nothing_seen_is_an_empty_observation() -> None:
    found = Observer((LINEAR,)).result()["fc"]
    assert (found.histogram.total, found.channel_amax.size, found.rows.size) == (0, 0, 0)


def test_an_empty_batch_of_images_changes_nothing() -> None:
    observer = Observer((CONV,))
    observer.update({"t": np.zeros((0, CHANNELS, 4, 4), np.float32)}, np.zeros(0, np.int64))
    assert observer.result()["conv"].histogram.total == 0


class Halves:
    """An engine whose one inner tensor is half of its input."""

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, Floats]:
        return {"t": np.asarray(feeds["x"], np.float32) / 2}


class OneByOne:
    """A batcher of one payload a batch."""

    output, profile = "y", {}  # type: ignore[var-annotated]  # no shapes

    def batches(self, payloads):  # type: ignore[no-untyped-def]
        for case, payload in enumerate(payloads):
            yield Batch({"x": payload[None]}, np.array([case]), None)


def test_watching_shows_inner_tensors_and_the_graphs_own_inputs() -> None:
    own = Site("first", "x", -1, LINEAR.layers)
    payloads = [np.full(CHANNELS, 2.0 + i, np.float32) for i in range(3)]
    found = watch(Halves(), (own, LINEAR), OneByOne(), payloads)
    assert found["first"].histogram.amax == 4.0
    assert found["fc"].histogram.amax == 2.0


@pytest.mark.parametrize("heads", [1, 4])
def test_four_dimensional_activations_are_observed_row_by_row(heads: int) -> None:
    values = np.random.default_rng(0).standard_normal((2, heads, 5, CHANNELS)).astype(np.float32)
    observer = Observer((LINEAR,))
    observer.update({"t": values}, np.arange(2))
    assert observer.result()["fc"].rows.shape == (min(2 * heads * 5, ROWS), CHANNELS)


# --- Rows that are no case's own, and what is broken ---


def routed(batches: list[list[int]]) -> SiteObservation:
    """Return what an expert sees: every row with a positive first value, [any number, channels]."""
    observer, cases = Observer((LINEAR,)), texts(2)
    for batch in batches:
        rows = np.concatenate([cases[i] for i in batch])
        mask = np.ones((len(batch), 3), bool)
        observer.update({"t": rows[rows[:, 0] > 0]}, np.asarray(batch, np.int64), mask)
    return observer.result()["fc"]


def test_rows_that_were_routed_are_sampled_alike_however_they_were_batched() -> None:
    whole = routed([list(range(12))])
    assert whole.histogram.total > 0
    assert_same(routed([[3, 1, 4, 0, 5], [9, 2, 6, 8], [7, 11, 10]]), whole)


def test_an_expert_that_no_token_went_to_saw_nothing() -> None:
    observer = Observer((LINEAR,))
    observer.update({"t": np.zeros((0, CHANNELS), np.float32)}, np.arange(4))
    found = observer.result()["fc"]
    assert (found.histogram.total, found.rows.shape, found.broken) == (0, (0, CHANNELS), {})


def test_tokens_flattened_into_rows_belong_to_their_cases() -> None:
    cases = texts(3)
    values, mask = padded(cases, 9)
    flat, whole = Observer((LINEAR,)), Observer((LINEAR,))
    flat.update({"t": values.reshape(-1, CHANNELS)}, np.arange(12), mask)
    whole.update({"t": values}, np.arange(12), mask)
    assert_same(flat.result()["fc"], whole.result()["fc"])


@pytest.mark.parametrize(
    "batches", [[list(range(12))], [[11, 3], [0, 5, 7], [1, 2, 4, 6, 8, 9, 10]]]
)
def test_infinities_and_nan_are_counted_by_case(batches: list[list[int]]) -> None:
    cases = texts(0)
    cases[3][0, 1], cases[7][0, :] = np.nan, np.inf
    assert observed(cases, batches).broken == {3: 1, 7: CHANNELS}


def test_broken_images_are_counted_by_case() -> None:
    values = np.ones((4, CHANNELS, 2, 2), np.float32)
    values[2, 1] = -np.inf
    observer = Observer((CONV,))
    observer.update({"t": values}, np.array([4, 5, 6, 7]))
    assert observer.result()["conv"].broken == {6: 4}


def test_the_first_broken_site_is_named_with_its_count_and_its_request() -> None:
    cases = texts(0)
    cases[3][0, 1], cases[7][0, :] = np.nan, np.inf
    found = {"fc": observed(cases, [list(range(12))])}
    with pytest.raises(
        BadInput, match=r"window: site fc saw 4 infinite or NaN .* request 'r7' and 1 more: .* take"
    ):
        require_finite((LINEAR,), found, [f"r{i}" for i in range(12)], where="window")
    require_finite((LINEAR,), {"fc": observed(texts(0), [[0]])}, ["r0"], where="window")


def test_the_sign_of_a_zero_does_not_tell_the_order_of_the_batches() -> None:
    zeros = [np.zeros((1, CHANNELS), np.float32), np.full((1, CHANNELS), -0.0, np.float32)]
    forth, back = (observed(one, [[0], [1]]) for one in (zeros, zeros[::-1]))
    assert forth.channel_low.tobytes() == back.channel_low.tobytes()
    assert forth.channel_high.tobytes() == back.channel_high.tobytes()


@pytest.mark.parametrize(
    "smoothing_scales", [None, {"fc": np.asarray([0.5, 2.0, 3.0], np.float32)}]
)
def test_observers_of_some_batches_merge_to_the_single_pass(
    smoothing_scales: Mapping[str, Floats] | None,
) -> None:
    cases = texts(3, 60)
    cases[17][0, 1], cases[44][0, 0] = np.inf, np.nan
    batches = [list(range(first, first + 5)) for first in range(0, 60, 5)]
    whole = Observer((LINEAR,), smoothing_scales)
    for index in (2, 0, 1):
        part = Observer((LINEAR,), smoothing_scales)
        for batch in batches[index::3]:
            values, mask = padded([cases[i] for i in batch], 9)
            part.update({"t": values}, np.asarray(batch, np.int64), mask)
        whole.merge(pickle.loads(pickle.dumps(part)))
    expected = observed(cases, batches, smoothing_scales)
    assert_same(whole.result()["fc"], expected)
    assert whole.result()["fc"].broken == expected.broken == {17: 1, 44: 1}


def test_an_observer_that_saw_nothing_changes_nothing() -> None:
    values, mask = padded(texts(4), 9)
    whole = Observer((LINEAR,))
    whole.update({"t": values}, np.arange(12, dtype=np.int64), mask)
    before = whole.result()["fc"]
    whole.merge(Observer((LINEAR,)))
    assert_same(whole.result()["fc"], before)
