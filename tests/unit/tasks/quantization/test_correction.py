"""Bias correction: what is left of the mean error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import BadInput
from tasks.observation.formats import Format
from tasks.observation.scales import Quantizer
from tasks.quantization.correction import correction
from tasks.quantization.smoothing import fake_quantize_activation
from tasks.quantization.weights import WeightScheme, quantize

QUANTIZERS = {
    "weight-only": None,
    "symmetric": Quantizer(2.0),
    "asymmetric": Quantizer(4.0, bounds=(-0.5, 4.0)),
    "fp8": Quantizer(4.0, format=Format.FP8),
}


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_corrected_output_has_the_mean_of_the_exact_one(quantizer: Quantizer | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.gamma(1.0, 1.0, (50, 12)).astype(np.float32)
    weight = rng.standard_normal((7, 12)).astype(np.float32)
    rounded = quantize(weight, WeightScheme(Format.INT4)).dequantized()
    seen = rows if quantizer is None else fake_quantize_activation(rows, quantizer)
    corrected = seen @ rounded.T + correction(rows, weight, rounded, quantizer)
    assert corrected.mean(axis=0) == pytest.approx((rows @ weight.T).mean(axis=0), abs=1e-4)


def test_what_is_exact_needs_no_correction() -> None:
    rows, weight = np.ones((3, 4), np.float32), np.eye(4, dtype=np.float32)
    assert not correction(rows, weight, weight, None).any()
    assert correction(rows, weight, weight, Quantizer(127.0)) == pytest.approx(np.zeros(4))


def test_a_known_shift_is_found() -> None:
    rows = np.array([[1.0, 0.4], [3.0, 0.4]], np.float32)
    weight = np.array([[1.0, 1.0]], np.float32)
    # A step of 1 rounds 0.4 away: 0.4 of every output is lost.
    assert correction(rows, weight, weight, Quantizer(127.0)) == pytest.approx([0.4])


def test_no_rows_are_bad_input() -> None:
    with pytest.raises(BadInput, match="observed rows"):
        correction(np.zeros((0, 4), np.float32), np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), None)
