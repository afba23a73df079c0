"""E2M1, E8M0 and two levels of scales, against tables of their own and modelopt's figures."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.numerics.block_floats import (
    BlockQuantizer,
    fake_quantize_blocks,
    powers_of_two,
    tensor_scale,
)
from tasks.numerics.formats import NumberFormat, PerBlock, PerChannel, ScaleFormat, round_to_format
from tasks.numerics.quantized_weight import WeightScheme, quantize

Floats = NDArray[np.float32]
FP4, FP8 = NumberFormat.FP4, NumberFormat.FP8
NVFP4 = WeightScheme(FP4, PerBlock(16), scales=ScaleFormat.E4M3)
MXFP8 = WeightScheme(FP8, PerBlock(32), scales=ScaleFormat.E8M0)
MXFP4 = WeightScheme(FP4, PerBlock(32), scales=ScaleFormat.E8M0)
RNG = np.random.default_rng(0)
WEIGHT = (RNG.standard_normal((48, 128)) * np.exp2(RNG.integers(-5, 5, (48, 1)))).astype(np.float32)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
"""By code: an even code has an even mantissa."""


def nearest_by_table(value: float) -> float:
    """Return the nearest of E2M1's values, of two equally near ones that of the even code."""
    distances = np.abs(E2M1 - abs(value))
    near = np.flatnonzero(distances == distances.min())
    return float(np.copysign(E2M1[next((code for code in near if not code % 2), near[0])], value))


def test_fp4_is_to_the_nearest_ties_to_even_and_saturates() -> None:
    ties = (E2M1[1:] + E2M1[:-1]) / 2
    beside = [np.nextafter(ties, np.float32(side)) for side in (-9, 9)]
    some = np.concatenate([E2M1, ties, *beside, RNG.uniform(0, 9, 500).astype(np.float32), [1e3]])
    values = np.concatenate([some, -some]).astype(np.float32)
    rounded = round_to_format(values, FP4)
    assert rounded.dtype == ml_dtypes.float4_e2m1fn
    assert rounded.astype(np.float32).tolist() == [nearest_by_table(item) for item in values]


def test_a_power_of_two_is_the_least_that_is_not_below() -> None:
    powers = np.exp2(np.arange(-126, 128)).astype(np.float32)
    assert np.array_equal(powers_of_two(powers), powers)
    assert np.array_equal(powers_of_two(np.nextafter(powers[1:], np.float32(0))), powers[1:])
    assert np.array_equal(powers_of_two(np.nextafter(powers[:-1], np.inf)), powers[1:])
    ends = powers_of_two(np.asarray([1e-45, 3.4e38], np.float32))
    assert ends.tolist() == [2.0**-126, 2.0**127]


@pytest.mark.parametrize(("scheme", "emax"), [(MXFP8, 8), (MXFP4, 2)])
def test_an_mx_scale_is_ocps_or_twice_that_where_ocps_cuts_off(
    scheme: WeightScheme, emax: int
) -> None:
    largest = np.abs(WEIGHT.reshape(48, 4, 32)).max(axis=-1)
    ocp = np.exp2(np.floor(np.log2(largest)) - emax)  # OCP MX v1.0, section 6.3
    cut_off = largest / ocp > scheme.format.largest
    assert 0 < cut_off.sum() < cut_off.size
    assert np.array_equal(quantize(WEIGHT, scheme).scales, np.where(cut_off, 2 * ocp, ocp))


def test_an_mx_weight_of_least_error_has_the_better_of_both_scales() -> None:
    clipped = WeightScheme(FP4, PerBlock(32), clipped=True, scales=ScaleFormat.E8M0)
    plain, best = (quantize(WEIGHT, scheme) for scheme in (MXFP4, clipped))
    assert np.isin(best.scales / plain.scales, [1.0, 0.5]).all()
    assert (best.scales < plain.scales).any()
    lost = [np.square(item.dequantized() - WEIGHT).sum() for item in (plain, best)]
    assert lost[1] < lost[0]


def modelopt(name: str) -> Callable[..., Any]:
    """Return a function of modelopt's ONNX exporter, whose module needs NumPy alone."""
    root = Path(sysconfig.get_path("purelib")) / "modelopt/onnx/quantization/quant_utils.py"
    if not root.exists():
        pytest.skip("modelopt is not installed")
    spec = importlib.util.spec_from_file_location("modelopt_quant_utils", root)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Any] = getattr(module, name)
    return found


def test_nvfp4_weights_are_modelopts() -> None:
    weight = WEIGHT.copy()
    weight[3, 16:32] = 0
    ours, whole = quantize(weight, NVFP4), modelopt("get_weights_scaling_factor_2")(weight)
    assert ours.tensor_scale == whole
    blocks = modelopt("get_weights_scaling_factor")(weight, 16, whole)
    short = np.clip(blocks, 2.0**-9, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    inner = np.ones_like(short, bool)
    inner[3, 1] = False  # of a block of zeros any scale will do
    assert np.array_equal(ours.scales[inner], (short * whole)[inner])
    units = modelopt("quantize")(weight, 16, short, whole)
    assert np.array_equal(ours.values, round_to_format(units.astype(np.float32), FP4))


def test_mxfp8_scales_are_modelopts() -> None:
    amax = modelopt("get_amax")(WEIGHT, 1, 32)
    exponents = modelopt("compute_e8m0")(amax, WEIGHT.shape, 1, 32)
    assert np.array_equal(quantize(WEIGHT, MXFP8).scales, np.exp2(exponents - 127))


def test_an_activation_is_rounded_as_a_weight_of_its_blocks_is() -> None:
    whole = tensor_scale(float(np.abs(WEIGHT).max()))
    for scheme, quantizer in ((NVFP4, BlockQuantizer(FP4, whole)), (MXFP8, BlockQuantizer(FP8))):
        stored = quantize(WEIGHT, scheme).dequantized()
        assert np.array_equal(fake_quantize_blocks(WEIGHT, quantizer), stored)


def test_what_exceeds_a_tensors_range_is_cut_off_and_what_is_far_below_becomes_zero() -> None:
    x = np.concatenate([np.full(16, 12.0), np.full(16, 6.0), np.full(16, 1e-6), np.zeros(16)])
    rounded = fake_quantize_blocks(x.astype(np.float32), BlockQuantizer(FP4, tensor_scale(6.0)))
    assert rounded.tolist() == [6.0] * 32 + [0.0] * 32


@pytest.mark.parametrize(
    ("format", "granularity", "scales"),
    [
        (FP4, PerChannel(), ScaleFormat.FP32),
        (FP4, PerBlock(32), ScaleFormat.E4M3),
        (FP8, PerBlock(16), ScaleFormat.E4M3),
        (NumberFormat.INT4, PerBlock(32), ScaleFormat.E8M0),
    ],
)
def test_what_is_no_format_is_refused_with_those_that_are(
    format: NumberFormat, granularity: PerBlock, scales: ScaleFormat
) -> None:
    with pytest.raises(BadInput, match=r"are no format: use FP4 in blocks of 16 .*\(NVFP4\), or"):
        WeightScheme(format, granularity, scales=scales)
