"""GPTQ against plain rounding, and against the paper's algorithm written out."""

from __future__ import annotations

from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.numerics.formats import NumberFormat, PerBlock, PerChannel, PerTensor
from tasks.numerics.quantized_weight import QuantizedWeight, WeightScheme, quantize
from tasks.quantization.weight.gptq import DAMPING, FLOOR, inverse_factor
from tests.unit.tasks.quantization.weight.rounded import gptq

Floats = NDArray[np.float32]
SCHEMES = {
    "int8": WeightScheme(),
    "int8, asymmetric": WeightScheme(symmetric=False),
    "int8, per tensor": WeightScheme(granularity=PerTensor()),
    "int4": WeightScheme(NumberFormat.INT4, PerBlock(16)),
    "int4, clipped": WeightScheme(NumberFormat.INT4, PerBlock(16), clipped=True),
    "int4, asymmetric": WeightScheme(NumberFormat.INT4, PerBlock(16), symmetric=False),
    "int4, per channel": WeightScheme(NumberFormat.INT4, PerChannel(), clipped=True),
    "int2": WeightScheme(NumberFormat.INT2, PerBlock(16), clipped=True),
    "int2, asymmetric": WeightScheme(
        NumberFormat.INT2, PerBlock(16), symmetric=False, clipped=True
    ),
    "fp8": WeightScheme(NumberFormat.FP8),
}


def problem(
    seed: int, outputs: int = 24, inputs: int = 56, count: int = 400
) -> tuple[Floats, Floats]:
    """Draw a weight, and rows whose inputs depend on each other and differ in size."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((inputs // 3, inputs)) * rng.lognormal(0, 0.7, inputs)
    rows = rng.standard_normal((count, inputs // 3)) @ mixing + 0.2 * rng.standard_normal(
        (count, inputs)
    )
    return rng.standard_normal((outputs, inputs)).astype(np.float32), rows.astype(np.float32)


def error(rows: Floats, weight: Floats, quantized: QuantizedWeight) -> float:
    return float(np.square(rows @ (weight - quantized.dequantized()).T).sum())


def written_out(weight: Floats, rows: Floats) -> Floats:
    """Algorithm 1 without lazy updates, one output at a time.

    INT8 with one scale a row, inputs by energy.
    """
    gram = rows.T.astype(np.float64) @ rows
    order = np.argsort(-np.diag((rows.T @ rows).astype(np.float64)), kind="stable")
    gram = gram[np.ix_(order, order)]
    inverse = np.linalg.inv(gram + np.diag(DAMPING * np.diag(gram) + FLOOR * np.diag(gram).mean()))
    upper = np.linalg.cholesky(inverse).T
    found = np.zeros_like(weight, dtype=np.float64)
    for row, target in zip(weight[:, order].astype(np.float64), found, strict=True):
        step = np.abs(row).max() / 127
        for at in range(len(row)):
            target[order[at]] = np.clip(np.round(row[at] / step), -128, 127) * step
            row[at:] -= (row[at] - target[order[at]]) / upper[at, at] * upper[at, at:]
    return found.astype(np.float32)


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "int2"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_the_output_error_is_below_that_of_plain_rounding(name: str, seed: int) -> None:
    (weight, rows), scheme = problem(seed), SCHEMES[name]
    assert error(rows, weight, gptq(weight, rows, scheme)) < 0.9 * error(
        rows, weight, quantize(weight, scheme)
    )


def test_of_two_bits_the_output_error_is_below_that_of_plain_rounding_by_and_large() -> None:
    """Compare over many problems: in one of two hundred nothing is gained."""
    ratios = []
    for seed in range(24):
        weight, rows = problem(seed)
        rounded, plain = gptq(weight, rows, SCHEMES["int2"]), quantize(weight, SCHEMES["int2"])
        ratios.append(error(rows, weight, rounded) / error(rows, weight, plain))
    assert np.median(ratios) < 0.4
    assert np.quantile(ratios, 0.9) < 0.6


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_the_layout_is_that_of_plain_rounding(scheme: WeightScheme) -> None:
    weight, rows = problem(0)  # 56 inputs: the last block of 16 is half full
    found, plain = gptq(weight, rows, scheme), quantize(weight, scheme)
    assert (found.values.shape, found.values.dtype) == (plain.values.shape, plain.values.dtype)
    assert (found.scales.shape, found.scales.dtype) == (plain.scales.shape, plain.scales.dtype)
    assert (found.zero_points is None) == (plain.zero_points is None)
    if found.zero_points is not None and plain.zero_points is not None:
        assert (found.zero_points.shape, found.zero_points.dtype) == (
            plain.zero_points.shape,
            plain.zero_points.dtype,
        )
    assert (found.block, found.shape) == (plain.block, plain.shape)
    assert (found.scales > 0).all()


@pytest.mark.parametrize("scheme", [SCHEMES["int4"], SCHEMES["int2"], SCHEMES["int8"]])
def test_levels_stay_inside_the_format(scheme: WeightScheme) -> None:
    levels = gptq(*problem(3), scheme).values.astype(np.int32)
    assert levels.min() >= -scheme.format.largest - 1
    assert levels.max() <= scheme.format.largest


def test_the_result_is_the_papers_algorithm() -> None:
    weight, rows = problem(1, inputs=300)  # more than two lazy blocks
    found = gptq(weight, rows, WeightScheme()).dequantized()
    expected = written_out(weight, rows)
    assert (
        np.mean(np.abs(found - expected) < 1e-5) > 0.98
    )  # float32 may tip a tie, and what follows from it


def test_inputs_that_tell_nothing_of_each_other_are_rounded_plainly() -> None:
    weight = problem(2)[0]
    rows = np.eye(56, dtype=np.float32)
    for scheme in SCHEMES.values():
        assert np.array_equal(gptq(weight, rows, scheme).values, quantize(weight, scheme).values)


def test_inputs_never_seen_are_rounded_plainly() -> None:
    weight, rows = problem(4)
    rows[:, 20:30] = 0
    found, plain = gptq(weight, rows, WeightScheme()), quantize(weight, WeightScheme())
    assert np.array_equal(found.values[:, 20:30], plain.values[:, 20:30])


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_rows_of_zeros_or_none_leave_plain_rounding(scheme: WeightScheme) -> None:
    weight = problem(5)[0]
    for rows in (np.zeros((4, 56), np.float32), np.zeros((0, 56), np.float32)):
        assert np.array_equal(gptq(weight, rows, scheme).values, quantize(weight, scheme).values)


def test_fewer_rows_than_inputs_are_enough_to_be_sound() -> None:
    weight, rows = problem(6, count=5)
    found = gptq(weight, rows, WeightScheme(NumberFormat.INT4, PerBlock(16)))
    assert np.isfinite(found.dequantized()).all()
    assert error(rows, weight, found) < error(
        rows, weight, quantize(weight, WeightScheme(NumberFormat.INT4, PerBlock(16)))
    )


def test_a_dead_output_stays_dead() -> None:
    weight, rows = problem(7)
    weight[3] = 0
    assert not gptq(weight, rows, WeightScheme()).dequantized()[3].any()


def test_the_same_input_gives_the_same_levels() -> None:
    weight, rows = problem(8)
    first, again = (gptq(weight, rows, SCHEMES["int4"]) for _ in range(2))
    assert np.array_equal(first.values, again.values)
    assert np.array_equal(first.scales, again.scales)


def test_the_given_weight_is_left_alone() -> None:
    weight, rows = problem(9)
    before = weight.copy()
    gptq(weight, rows, WeightScheme())
    assert np.array_equal(weight, before)


def test_the_factor_is_that_of_the_inverse() -> None:
    rows = problem(10)[1].astype(np.float64)
    gram = rows.T @ rows / np.square(rows).sum() * rows.shape[1]
    factor = inverse_factor(gram, 0.3).astype(np.float64)
    damped = gram + np.diag(0.3 * np.diag(gram) + FLOOR)
    assert np.array_equal(factor, np.triu(factor))
    assert factor.T @ factor @ damped == pytest.approx(np.eye(len(gram)), abs=1e-3)


def test_a_layer_of_an_encoder_takes_little_time() -> None:
    rng = np.random.default_rng(0)
    weight, rows = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((384, 1536), (512, 1536))
    )
    started = process_time()
    gptq(weight, rows, WeightScheme(NumberFormat.INT4, PerBlock(32)))
    assert process_time() - started < 10  # about 1 s; loose, because machines differ
