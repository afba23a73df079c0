"""What a batch of traffic looks like, column by column."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import BadInput
from tasks.drift.detectors.features import features
from tasks.profiles import ProfileSettings, dump, merge, parse, profile_batch
from tasks.profiles.columns.quantiles import FineHistogram
from tasks.profiles.columns.text import NO_SCRIPT, describe, embed
from tests.unit.tasks.profiles.traffic import NOON, batch, request

SMALL = ProfileSettings(reservoir=4, fourier_features=256)
SAMPLES = [
    "Hello, world 12!",
    "สวัสดีครับ 2",
    "你好，世界",
    "",
    "ß α β",
    "日本ひらがな",
    "🙂🙂",
    "İi",
    "٣٤",
]


@given(st.lists(st.text(max_size=30) | st.sampled_from(SAMPLES), max_size=20))
@settings(deadline=None, max_examples=50)
def test_texts_look_as_the_input_detector_sees_them(texts: list[str]) -> None:
    found = describe(pa.array(texts, pa.string()))
    expected = features([request("r", payload=text) for text in texts])
    for name, values in expected.numeric.items():
        assert np.array_equal(found.numbers[name], values)
    assert tuple(found.script.to_pylist()) == expected.categories["script"]


def test_texts_of_any_length_and_number_are_looked_at_piece_by_piece() -> None:
    texts = [*(f"text {n}" for n in range(5000)), "ä1" * 30_000, "", "日" * 300_000]
    found = describe(pa.array(texts))
    assert found.numbers["length"][-3:].tolist() == [60_000, 0, 300_000]
    assert found.script.to_pylist()[-3:] == ["LATIN", NO_SCRIPT, "CJK"]
    assert sum(map(len, embed(pa.array(texts)))) == len(texts)


def test_embeddings_tell_languages_apart_in_any_script() -> None:
    def mean(text: str) -> np.ndarray:
        rows = [request(f"r{n}", payload=f"{text} {n}") for n in range(200)]
        return profile_batch(batch(rows), SMALL).rff_mean("text")

    thai, other_thai = mean("ขอบคุณมากครับ วันนี้อากาศดี"), mean("วันนี้อากาศดี ขอบคุณมากครับ")
    chinese = mean("谢谢你，今天天气很好")
    assert np.linalg.norm(thai - other_thai) < 0.5 * np.linalg.norm(thai - chinese)


def test_mean_features_estimate_the_kernel() -> None:
    random = np.random.default_rng(1)
    one, other = random.standard_normal((2, 8))
    rows = pa.RecordBatch.from_pydict({"domain": ["docs"]})
    chosen = ProfileSettings(reservoir=0, fourier_features=20_000)
    means = [
        profile_batch(rows, chosen, embeddings=v[None]).rff_mean("model") for v in (one, other)
    ]
    distance = np.linalg.norm(one / np.linalg.norm(one) - other / np.linalg.norm(other))
    assert means[0] @ means[1] == pytest.approx(
        np.exp(-(distance**2) / (2 * chosen.bandwidth**2)), abs=0.03
    )


def test_tensors_are_described_and_what_is_not_finite_is_left_out_of_the_mean() -> None:
    rows = [request(f"r{n}", payload=np.full((2, 3), n, np.float32)) for n in range(5)]
    rows.append(request("bad", payload=np.array([np.nan, 1, 2], np.float32)))
    rows.append(request("empty", payload=np.zeros(0, np.float32)))
    found = profile_batch(batch(rows), SMALL)
    assert found.numbers["mean"].total == 5
    assert found.numbers["mean"].nonfinite == 1
    assert (
        found.fourier_features["tensor"].rows,
        found.fourier_features["tensor"].nonfinite,
        found.fourier_features["tensor"].zeros,
    ) == (6, 1, 2)
    assert found.counts("script") == {}


def test_counts_missing_values_and_hours() -> None:
    rows = [
        request(f"r{n}", time=NOON + timedelta(hours=n % 3), tenant=f"t{n % 2}") for n in range(12)
    ]
    rows[0] = request("r0", latency_ms=2.0, decision="allowed")
    found = profile_batch(batch(rows), SMALL)
    assert found.counts("tenant") == {"t1": 6, "t0": 5, "acme": 1}
    assert found.missing == {"decision": 11, "latency_ms": 11, "model_version": 12}
    assert found.histogram("hour", [13.0, 14.0]).tolist() == [4, 4, 4]
    assert (found.rows, found.buckets("tenant").sum(), found.redelivered) == (
        12,
        12,
        pytest.approx(0, abs=0.01),
    )


def test_rows_without_time_or_tenant_are_counted_as_missing_and_may_be_kept() -> None:
    rows = pa.RecordBatch.from_pydict(
        {
            "request_id": ["a", "b"],
            "time": pa.array([1, None], pa.timestamp("ns", "UTC")),
            "tenant": pa.array([None, "acme"], pa.string()),
        }
    )
    found = profile_batch(rows, SMALL)
    assert found.missing == {"tenant": 1, "time": 1}
    assert sorted((entry.key, entry.group) for entry in found.reservoir.entries()) == [
        ("a", ""),
        ("b", "acme"),
    ]  # type: ignore[union-attr]
    assert dump(parse(dump(found), where="x")) == dump(found)


def test_hours_of_years_apart_count_by_the_hour_of_the_day() -> None:
    rows = [request(f"r{n}", time=NOON - timedelta(days=400 * n, hours=n)) for n in range(3)]
    assert profile_batch(batch(rows), SMALL).numbers["hour"] == FineHistogram.of(
        np.array([12, 11, 10])
    )


def test_a_heavy_request_is_kept_rather_than_light_ones() -> None:
    rows = batch([request(f"r{n}") for n in range(500)])
    weights = np.ones(500)
    weights[77] = 1e6
    found = profile_batch(rows, SMALL, weights=weights)
    assert "r77" in [entry.key for entry in found.reservoir.entries()]  # type: ignore[union-attr]
    halves = [
        profile_batch(rows[a : a + 250], SMALL, weights=weights[a : a + 250]) for a in (0, 250)
    ]
    assert dump(merge(*halves)) == dump(found)


# --- sound results on strange traffic


def test_one_tenant_only_and_texts_all_alike() -> None:
    found = profile_batch(batch([request(f"r{n}", payload="same") for n in range(50)]), SMALL)
    assert found.counts("tenant") == {"acme": 50}
    assert found.numbers["length"].quantile(0.5) == pytest.approx(4, rel=1 / 32)
    assert found.distinct["input"].value == pytest.approx(1, abs=0.01)
    assert np.allclose(
        found.rff_mean(), profile_batch(batch([request("x", payload="same")]), SMALL).rff_mean()
    )


def test_embeddings_of_zeros_count_at_one_place() -> None:
    rows = pa.RecordBatch.from_pydict({"domain": ["docs"] * 3})
    found = profile_batch(rows, SMALL, embeddings=np.zeros((3, 5)))
    assert (found.fourier_features["model"].zeros, found.fourier_features["model"].rows) == (3, 3)
    assert np.isfinite(found.rff_mean("model")).all()
    mixed = profile_batch(rows, SMALL, embeddings=np.array([[np.inf, 0], [1e300, 1e300], [1, 1]]))
    assert (mixed.fourier_features["model"].nonfinite, mixed.fourier_features["model"].rows) == (
        1,
        2,
    )
    assert np.allclose(
        mixed.rff_mean("model"),
        profile_batch(rows, SMALL, embeddings=np.ones((3, 2))).rff_mean("model"),
    )


def test_empty_texts_have_no_script_and_an_embedding_of_zeros() -> None:
    found = profile_batch(batch([request("r", payload="")]), SMALL)
    assert found.counts("script") == {NO_SCRIPT: 1}
    assert found.fourier_features["text"].zeros == 1


def test_bytes_that_are_not_utf8_and_cut_tensors_are_refused() -> None:
    bad = pa.StringArray.from_buffers(
        1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    )
    with pytest.raises(BadInput, match="not UTF-8"):
        profile_batch(pa.RecordBatch.from_arrays([bad], ["text"]), SMALL)
    with pytest.raises(BadInput, match="3 bytes, which is no number of float32"):
        profile_batch(pa.RecordBatch.from_pydict({"tensor": [b"abc"]}), SMALL)
    with pytest.raises(BadInput, match="1 of 1 keys are missing"):
        profile_batch(
            pa.RecordBatch.from_pydict({"request_id": pa.array([None], pa.string())}), SMALL
        )
    with pytest.raises(BadInput, match="column latency_ms is of type string, not a number"):
        profile_batch(pa.RecordBatch.from_pydict({"latency_ms": ["fast"]}), SMALL)
