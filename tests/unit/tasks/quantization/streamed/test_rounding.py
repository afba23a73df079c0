"""Rounding by torch is the rounding by NumPy that engines are built with."""

import numpy as np
import pytest
import torch

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat, PerBlock, PerTensor
from tasks.numerics.quantized_weight import WeightScheme, quantize
from tasks.quantization.streamed.rounding import (
    Rounded,
    compensated,
    inverse_factor,
    nearest,
    protected,
)
from tasks.quantization.weight import awq_clip, gptq

SCHEMES = [
    WeightScheme(),
    WeightScheme(NumberFormat.FP8),
    WeightScheme(NumberFormat.INT4, PerBlock(32)),
    WeightScheme(NumberFormat.INT4, PerBlock(32), clipped=True),
]


def weight(outputs: int = 48, inputs: int = 128) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn((outputs, inputs), generator=random) * torch.rand(
        (outputs, 1), generator=random
    )


def rows(count: int = 400, inputs: int = 128) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    mixed = torch.randn((count, inputs), generator=random)
    return mixed @ torch.randn((inputs, inputs), generator=random)


def dequantized(rounded: Rounded) -> torch.Tensor:
    blocks = rounded.values.float().view(len(rounded.values), rounded.scales.shape[1], -1)
    return (blocks * rounded.scales[:, :, None]).view(rounded.values.shape)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nearest_values_and_scales_are_numpys(scheme: WeightScheme) -> None:
    expected, found = quantize(weight().numpy(), scheme), nearest(weight(), scheme)
    assert np.allclose(found.scales, expected.scales, rtol=1e-6)
    same = found.values.float().numpy() == expected.values.astype(np.float32)
    assert same.mean() > 0.999


@pytest.mark.parametrize("beside", [0, 2048])
def test_the_factor_is_numpys(beside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.quantization.streamed.rounding.WORTH_ITS_THREADS", beside)
    gram = rows().T @ rows()
    expected = gptq.inverse_factor(gram.double().numpy(), gptq.DAMPING)
    found = inverse_factor(gram)
    assert np.allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(inverse_factor(torch.zeros(4, 4)), torch.eye(4))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gptq_is_numpys(scheme: WeightScheme) -> None:
    gram = rows().T @ rows()
    hessian = gptq.damped_hessian(rows().numpy())
    expected = gptq.compensate(weight().numpy(), hessian, scheme)
    found = compensated(weight(), gram, scheme)
    same = found.values.float().numpy() == expected.values.astype(np.float32)
    assert same.mean() > 0.98  # a value between two is either, and moves those after it


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gptq_loses_less_of_the_output_than_the_nearest_values(scheme: WeightScheme) -> None:
    exact = rows() @ weight().T
    lost = {
        name: float((rows() @ dequantized(made).T - exact).norm())
        for name, made in {
            "nearest": nearest(weight(), scheme),
            "gptq": compensated(weight(), rows().T @ rows(), scheme),
        }.items()
    }
    assert lost["gptq"] < 0.9 * lost["nearest"]


def test_what_the_format_has_no_place_for_is_refused() -> None:
    with pytest.raises(BadInput, match="no whole blocks of 48"):
        nearest(weight(), WeightScheme(NumberFormat.INT4, PerBlock(48)))
    with pytest.raises(BadInput, match="by channel or block alone"):
        nearest(weight(), WeightScheme(granularity=PerTensor()))


@pytest.mark.parametrize("clipped", [False, True])
def test_awqs_clipping_is_numpys(clipped: bool) -> None:
    scheme = WeightScheme(NumberFormat.INT4, PerBlock(32), clipped=clipped)
    cut = awq_clip.clip(weight().numpy(), rows().numpy(), scheme)
    expected = quantize(cut, WeightScheme(NumberFormat.INT4, PerBlock(32)))
    found = protected(weight(), rows(), scheme)
    same = np.isclose(found.scales, expected.scales, rtol=1e-5)
    assert same.mean() > 0.99
    assert (found.values.float().numpy() == expected.values.astype(np.float32)).mean() > 0.99
    plain = dequantized(nearest(weight(), WeightScheme(NumberFormat.INT4, PerBlock(32))))
    lost = [((rows() @ (made - weight()).T) ** 2).sum() for made in (dequantized(found), plain)]
    assert lost[0] < 0.9 * lost[1]
