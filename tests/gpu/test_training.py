"""Training on the device makes what training on the CPU makes, within the stated tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.numerics.formats import NumberFormat, PerBlock
from tasks.numerics.quantized_weight import WeightScheme, quantize
from tasks.numerics.quantizer import Quantizer
from tests.gpu.devices import NEEDS_CUDA

pytest.importorskip("torch")
pytestmark = NEEDS_CUDA

SCHEMES = {
    "int8": WeightScheme(),
    "int4": WeightScheme(NumberFormat.INT4, PerBlock(16)),
    "int4, asymmetric": WeightScheme(NumberFormat.INT4, PerBlock(16), symmetric=False),
    "int2": WeightScheme(NumberFormat.INT2, PerBlock(16), clipped=True),
}


ERROR_APART = 0.001
"""Relative difference of the error on rows held out, between what two devices made of one site."""
VALUES_APART = 0.001
"""Fraction of the quantized values that may differ, each by one."""


def problem(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return dependent rows [192, 384] and a weight [128, 384]: a site of a small encoder."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((192, 64)) @ rng.standard_normal(
        (64, 384)
    ) + 0.1 * rng.standard_normal((192, 384))
    return rows.astype(np.float32), rng.standard_normal((128, 384)).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("quantized", [False, True], ids=["weight-only", "with its activation"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_a_site_is_trained_on_the_device_as_on_the_cpu(
    scheme: WeightScheme, quantized: bool, seed: int
) -> None:
    from tasks.quantization.weight.qat import train

    rows, weight = problem(seed)
    quantizer = Quantizer(float(np.abs(rows).max())) if quantized else None
    start = quantize(weight, scheme)
    host, device = (
        train(rows, weight, start, quantizer, device=where) for where in ("cpu", "cuda")
    )
    apart = np.abs(host.weight.values.astype(int) - device.weight.values.astype(int))
    error = abs(device.after - host.after) / host.after
    print(
        f"error {host.after:.3e} and {device.after:.3e} ({error:.2e} apart), "
        f"{(apart > 0).mean():.2e} of the levels"
    )
    assert device.before == pytest.approx(host.before, rel=1e-3)
    assert error <= ERROR_APART
    assert (apart > 0).mean() <= VALUES_APART
    assert apart.max(initial=0) <= 1
    assert np.allclose(device.weight.scales, host.weight.scales, rtol=1e-2)


def test_the_device_is_used_where_it_is_visible() -> None:
    from tasks.quantization.weight.qat import default_device

    assert default_device() == "cuda"
