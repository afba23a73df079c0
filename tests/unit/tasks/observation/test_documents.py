"""Scales and observations on disk: read back as they were written, and damage is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.errors import BadInput
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.quantizer import Quantizer
from tasks.observation.archive import dump_observation, parse_observation
from tasks.observation.observer import SiteObservation
from tasks.observation.scales import dump_scales, parse_scales

POSITIVE = st.floats(2.0**-20, 2.0**20, width=32)


@given(
    st.dictionaries(
        st.text(max_size=8), st.tuples(POSITIVE, st.lists(POSITIVE, min_size=1, max_size=4))
    )
)
def test_scales_are_read_back_as_they_were(found: dict[str, tuple[float, list[float]]]) -> None:
    scales = {
        name: Quantizer(amax, np.asarray(smoothing_scales, np.float32))
        for name, (amax, smoothing_scales) in found.items()
    }
    again = parse_scales(dump_scales(scales), where="scales.json")
    assert {name: item.amax for name, item in again.items()} == {
        name: item.amax for name, item in scales.items()
    }
    assert all(
        (again[name].smoothing_scales == item.smoothing_scales).all()
        for name, item in scales.items()
    )


def test_equal_scales_have_equal_bytes() -> None:
    a, b = Quantizer(1.0), Quantizer(2.0, np.ones(3, np.float32))
    assert dump_scales({"a": a, "b": b}) == dump_scales({"b": b, "a": a})


def test_no_divisors_stay_none() -> None:
    assert parse_scales(dump_scales({"a": Quantizer(1.0)}), where="x")["a"].smoothing_scales is None


@pytest.mark.parametrize("amax", [0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-44])
def test_a_scale_that_float32_cannot_hold_as_a_positive_number_is_bad_input(amax: float) -> None:
    with pytest.raises(
        BadInput, match=r"scales.json: the scale of fc1 is not a positive finite number"
    ):
        parse_scales(dump_scales({"fc1": Quantizer(amax)}), where="scales.json")


@pytest.mark.parametrize("divisor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_divisor_that_is_not_positive_and_finite_is_bad_input(divisor: float) -> None:
    with pytest.raises(BadInput, match="fc1"):
        parse_scales(
            dump_scales({"fc1": Quantizer(1.0, np.array([1, divisor], np.float32))}),
            where="scales.json",
        )


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 1}',
        b'{"version": 1, "sites": []}',
        b'{"version": 1, "sites": {"a": {}}}',
        b'{"version": 1, "sites": {"a": {"amax": "wide", "divisors": null}}}',
        b'{"version": 1, "sites": {"a": {"amax": true, "divisors": null}}}',
        b'{"version": 1, "sites": {"a": {"amax": 1, "divisors": ["x"]}}}',
        b'{"version": 1, "sites": {"a": {"amax": 1, "divisors": [[1, 2]]}}}',
        b'{"version": 1, "sites": {"a": {"amax": 1, "divisors": []}}}',
    ],
)
def test_what_is_no_scales_document_is_bad_input(document: bytes) -> None:
    with pytest.raises(BadInput, match=r"scales.json"):
        parse_scales(document, where="scales.json")


def test_another_version_of_scales_is_bad_input() -> None:
    document = json.loads(dump_scales({})) | {"version": 3}
    with pytest.raises(BadInput, match="version 3"):
        parse_scales(json.dumps(document).encode(), where="scales.json")


def observation() -> dict[str, SiteObservation]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 3)).astype(np.float32)
    nothing = np.zeros(0, np.float32)
    return {
        "fc.{query,key}": SiteObservation(
            ExponentHistogram.of(values), values.min(axis=0), values.max(axis=0), values[:7]
        ),
        "conv": SiteObservation(
            ExponentHistogram.of(values), nothing, nothing, np.zeros((0, 0), np.float32)
        ),
        "stem": SiteObservation(
            ExponentHistogram.of(values),
            values.min(axis=0),
            values.max(axis=0),
            nothing[None, :0],
            pixels=values[:5],
        ),
    }


def test_an_observation_is_read_back_as_it_was() -> None:
    before = observation()
    after = parse_observation(dump_observation(before), where="x")
    assert set(after) == set(before)
    for name, site in before.items():
        assert after[name].histogram == site.histogram
        assert after[name].channel_amax.tobytes() == site.channel_amax.tobytes()
        assert after[name].rows.tobytes() == site.rows.tobytes()
        assert after[name].rows.shape == site.rows.shape
        assert after[name].pixels.tobytes() == site.pixels.tobytes()
        assert after[name].pixels.shape == site.pixels.shape


def test_an_observation_of_nothing_is_read_back() -> None:
    assert parse_observation(dump_observation({}), where="x") == {}


def test_equal_observations_have_equal_bytes() -> None:
    forwards = observation()
    assert dump_observation(forwards) == dump_observation(dict(reversed(forwards.items())))


GOOD = dump_observation(observation())


@example(place=566, value=60)  # in the header of an array: fewer bytes are read than were stored
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_is_bad_input_or_changes_nothing_that_is_read(
    place: int, value: int
) -> None:
    data = bytearray(GOOD)
    data[place] = value
    try:
        found = parse_observation(bytes(data), where="obs")
    except BadInput as exc:
        assert str(exc).startswith("obs is not an observation")  # noqa: PT017  # either outcome is right
    else:
        assert {name: site.histogram.total for name, site in found.items()} == {
            "fc.{query,key}": 150,
            "conv": 150,
            "stem": 150,
        }


@given(st.integers(0, len(GOOD) - 1))
@settings(max_examples=40, deadline=None)
def test_an_archive_cut_short_is_bad_input(length: int) -> None:
    with pytest.raises(BadInput):
        parse_observation(GOOD[:length], where="obs")


@pytest.mark.parametrize("change", ["counts", "rows", "pixels", "version"])
def test_an_archive_of_another_shape_is_bad_input(change: str) -> None:
    from io import BytesIO

    with np.load(BytesIO(GOOD)) as archive:
        arrays = dict(archive)
    arrays |= {
        "counts": {"0.counts": np.zeros(7, np.int64)},
        "rows": {"1.rows": np.zeros((4, 99), np.float32)},
        "pixels": {"2.pixels": np.zeros((4, 99), np.float32)},
        "version": {"version": np.asarray(9)},
    }[change]
    buffer = BytesIO()
    np.savez(buffer, **arrays)
    with pytest.raises(BadInput):
        parse_observation(buffer.getvalue(), where="obs")


def test_a_single_array_is_no_observation() -> None:
    from io import BytesIO

    buffer = BytesIO()
    np.save(buffer, np.zeros(3))
    with pytest.raises(BadInput, match="is not an observation"):
        parse_observation(buffer.getvalue(), where="obs")
