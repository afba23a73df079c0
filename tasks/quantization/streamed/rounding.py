"""Rounding by torch, where a layer is computed: weights, and the static range of their inputs.

Weights are rounded to the nearest value, by AWQ or by GPTQ. The arithmetic is that of
`tasks.numerics.quantized_weight` and of `tasks.quantization.weight`, which a test holds it against.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg.lapack import spotrf, strtri  # type: ignore[import-untyped]  # ships no types

from infra.errors import BadInput
from tasks.numerics.formats import LARGEST, SMALLEST, NumberFormat, PerBlock, PerTensor
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.quantized_weight import SHRINKS, SMALLEST_SCALE, WeightScheme
from tasks.quantization.activation.ranges import amax
from tasks.quantization.recipe.schemes import PerToken, RangeRule, Static
from tasks.quantization.streamed.observing import WORTH_ITS_THREADS, SiteView
from tasks.quantization.weight.awq_clip import SHRINKS as CLIPS
from tasks.quantization.weight.gptq import DAMPING, FLOOR, LAZY

if TYPE_CHECKING:
    import torch


_IN_CACHE, _ON_DEVICE = 1 << 18, 1 << 26  # numbers


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A weight in quantized values."""

    values: torch.Tensor  # [outputs, inputs], int8 or float8_e4m3fn
    scales: torch.Tensor  # [outputs, 1] or [outputs, blocks], as they are stored


def block_of(scheme: WeightScheme, inputs: int) -> int | None:
    """Return how many inputs share a scale; None where all do.

    Raises:
        BadInput: Blocks do not divide the inputs, or the scheme is not written by this path.
    """
    if isinstance(scheme.granularity, PerTensor) or not scheme.symmetric:
        raise BadInput("a checkpoint is written with symmetric scales by channel or block alone")
    if not isinstance(scheme.granularity, PerBlock):
        return None
    if inputs % scheme.granularity.size:
        raise BadInput(f"{inputs} inputs are no whole blocks of {scheme.granularity.size}")
    return scheme.granularity.size


def scales_of(weight: torch.Tensor, scheme: WeightScheme) -> torch.Tensor:
    """Return the scales of a weight [outputs, inputs], float32: [outputs, blocks]."""
    import torch

    outputs, inputs = weight.shape
    block = block_of(scheme, inputs)
    groups = weight.view(outputs, -1, block or inputs)
    largest = groups.abs().amax(-1).clamp(max=LARGEST)
    scales = (largest / scheme.format.largest).clamp(min=SMALLEST_SCALE)
    if not scheme.clipped:
        return scales
    parts = torch.split(groups, rows_at_once(weight)), torch.split(scales, rows_at_once(weight))
    return torch.cat([_least_error(*pair, scheme.format) for pair in zip(*parts, strict=True)])


def rows_at_once(weight: torch.Tensor) -> int:
    """Return how many rows of a weight [outputs, inputs] are worth working on at a time.

    On the CPU so many as its cache holds.
    """
    return max((_ON_DEVICE if weight.is_cuda else _IN_CACHE) // weight.shape[1], 1)


def _least_error(groups: torch.Tensor, scales: torch.Tensor, format: NumberFormat) -> torch.Tensor:
    """Return the scales that round groups [outputs, blocks, inputs] with least squared error."""
    import torch

    best, least = scales, torch.full_like(scales, torch.inf)
    for shrink in SHRINKS:
        step = (scales * shrink).clamp(min=SMALLEST_SCALE)
        wide = step[:, :, None]
        lost = _whole(groups / wide, format).mul_(wide).sub_(groups).square_().sum(-1)
        best, least = torch.where(lost < least, step, best), torch.minimum(lost, least)
    return best


def stored_scales(scales: torch.Tensor, kind: torch.dtype | None) -> torch.Tensor:
    """Return scales in a type that whoever loads them casts to; in float32 where it is too short.

    Args:
        scales: In float32.
        kind: Of the checkpoint's weights; None: float32. Scales of small weights are no numbers of
            float16.
    """
    import torch

    if kind is None or not scales.numel():
        return scales
    numbers = torch.finfo(kind)
    held = bool(scales.min() >= numbers.smallest_normal) and bool(scales.max() <= numbers.max)
    return scales.to(kind) if held else scales


def most_bits(kind: torch.dtype) -> int:
    """Return how many bits a stored scale of a weight of this type has at most.

    Those of float16 may have to be float32: `stored_scales`.
    """
    import torch

    return 16 if kind is torch.bfloat16 else 32


def nearest(
    weight: torch.Tensor, scheme: WeightScheme, scales_in: torch.dtype | None = None
) -> Rounded:
    """Round a weight [outputs, inputs] to the nearest quantized values.

    Args:
        weight: In float32.
        scheme: How it is stored.
        scales_in: The type that scales are stored in where it holds them, as `stored_scales`; None:
            float32. Values are in units of them.
    """
    outputs, inputs = weight.shape
    scales = stored_scales(scales_of(weight, scheme), scales_in)
    groups = weight.view(outputs, scales.shape[1], -1)
    values = _rounded(groups / scales.float()[:, :, None], scheme.format)
    return Rounded(values.view(outputs, inputs), scales)


def protected(
    weight: torch.Tensor,
    rows: torch.Tensor,
    scheme: WeightScheme,
    scales_in: torch.dtype | None = None,
) -> Rounded:
    """Round a weight [outputs, inputs] to the nearest, each block clipped where its output gains.

    AWQ's clipping, as `tasks.quantization.weight.awq_clip.clip`.

    Args:
        weight: In float32, multiplied by the scales that its inputs are divided by.
        rows: What the layer reads, divided by them, [n, inputs] in float32.
        scheme: How it is stored.
        scales_in: As of `nearest`.
    """
    import torch

    size, plain = (
        block_of(scheme, weight.shape[1]) or weight.shape[1],
        replace(scheme, clipped=False),
    )
    blocks = rows.view(len(rows), -1, size).transpose(0, 1)
    grams = blocks.transpose(1, 2) @ blocks  # w' G w is the squared output of a block
    parts = [
        _clipped_by_output(part, grams, plain) for part in torch.split(weight, rows_at_once(weight))
    ]
    return nearest(torch.cat(parts), plain, scales_in)


def _clipped_by_output(
    weight: torch.Tensor, grams: torch.Tensor, scheme: WeightScheme
) -> torch.Tensor:
    import torch

    groups = weight.view(len(weight), len(grams), -1)  # [outputs, blocks, size]
    limit = groups.abs().amax(-1, keepdim=True)
    best, least = groups, torch.full_like(limit, torch.inf)
    for shrink in CLIPS:
        bound = limit * shrink
        cut = groups.clamp(-bound, bound)
        step = (bound / scheme.format.largest).clamp(min=SMALLEST_SCALE)
        lost = (groups - _whole(cut / step, scheme.format) * step).transpose(0, 1)
        error = ((lost @ grams) * lost).sum(-1).T[:, :, None]
        best = torch.where(error < least, cut, best)
        least = torch.minimum(error, least)
    return best.reshape(weight.shape)


def compensated(
    weight: torch.Tensor,
    gram: torch.Tensor,
    scheme: WeightScheme,
    scales_in: torch.dtype | None = None,
) -> Rounded:
    """Round a weight [outputs, inputs] by GPTQ, inputs of most energy first.

    Frantar et al. (2023), algorithm 1. Scales follow from the weight as given, so that the order
    in which inputs are rounded leaves blocks as they are stored.

    Args:
        weight: In float32.
        gram: X' X of what the layer reads, [inputs, inputs], float32.
        scheme: How it is stored.
        scales_in: As of `nearest`.
    """
    import torch

    outputs, inputs = weight.shape
    scales = stored_scales(scales_of(weight, scheme), scales_in)
    block = block_of(scheme, inputs) or inputs
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    factor = inverse_factor(gram[order][:, order])
    pending = weight.T[order].contiguous()
    steps = scales.float().T.contiguous()[(order // block)]
    kept = torch.empty((inputs, outputs), dtype=_stored(scheme.format), device=weight.device)
    for begin in range(0, inputs, LAZY):
        end = min(begin + LAZY, inputs)
        errors = torch.empty((end - begin, outputs), device=weight.device)
        part, own = pending[begin:end], factor[begin:end, begin:end].contiguous()
        diagonal = own.diagonal().tolist()
        for at in range(end - begin):
            step = steps[begin + at]
            kept[begin + at] = values = _rounded(part[at] / step, scheme.format)
            torch.div(part[at] - values.float() * step, diagonal[at], out=errors[at])
            part[at + 1 :].addr_(own[at, at + 1 :], errors[at], alpha=-1)
        pending[end:].addmm_(factor[begin:end, end:].T, errors, alpha=-1)
    values = torch.empty_like(kept)
    values[order] = kept
    return Rounded(values.T.contiguous(), scales)


def inverse_factor(gram: torch.Tensor) -> torch.Tensor:
    """Return the upper U where U' U is the inverse of the damped Gram matrix, up to one factor.

    As `tasks.quantization.weight.gptq.inverse_factor`, [inputs, inputs] in float32.
    """
    import torch

    mean = gram.diagonal().mean()
    damped = gram / mean if mean > 0 else torch.zeros_like(gram)
    damped.diagonal().mul_(1 + DAMPING).add_(FLOOR if mean > 0 else 1.0)
    turned = damped.flip(0, 1)
    if not gram.is_cuda and len(gram) >= WORTH_ITS_THREADS:
        # LAPACK inverts the factor in a third of the work of solving for the identity.
        array = np.asfortranarray(turned.numpy())
        factor = spotrf(array, lower=1, clean=1, overwrite_a=1)[0]
        return torch.from_numpy(strtri(factor[::-1, ::-1])[0])
    lower = torch.linalg.cholesky(turned).flip(0, 1)
    # With its axes reversed, the factor is upper: R R' = H, and U = R^-1.
    unit = torch.eye(len(gram), device=lower.device)
    inverse: torch.Tensor = torch.linalg.solve_triangular(lower, unit, upper=True)
    return inverse


def _stored(format: NumberFormat) -> torch.dtype:
    import torch

    return torch.float8_e4m3fn if format is NumberFormat.FP8 else torch.int8


def _rounded(units: torch.Tensor, format: NumberFormat) -> torch.Tensor:
    """Round values in units of the scale: ties to even, saturating."""
    return _whole(units, format).to(_stored(format))


def _whole(units: torch.Tensor, format: NumberFormat) -> torch.Tensor:
    """Round as `_rounded`, in float32."""
    if format is NumberFormat.FP8:
        clipped = units.clamp(-format.largest, format.largest)
        return clipped.to(_stored(format)).float()
    whole: torch.Tensor = units.round().clamp_(-format.largest - 1, format.largest)
    return whole


def input_scale_of(
    activation: Static | PerToken | None,
    view: SiteView | None,
    by: torch.Tensor | None,
    kind: torch.dtype | None = None,
) -> float | None:
    """Return the step of a site's static range; None where it has none.

    Args:
        activation: How the site is quantized.
        view: What it saw.
        by: Its smoothing scales, [inputs]; None: it has none.
        kind: As of `stored_scales`: transformers computes with the step in the checkpoint's type.
    """
    import torch

    if not isinstance(activation, Static) or view is None:
        return None
    largest, rule = activation.format.largest, activation.rule
    if by is None:
        reach = amax(view.histogram, rule, largest)
    elif rule is RangeRule.MAX:
        reach = float((view.channel_amax / by.cpu().numpy()).max())
    else:
        kept = (view.rows / by).cpu().numpy()
        reach = amax(ExponentHistogram.of(kept), rule, largest)
    step = min(max(reach * activation.headroom, SMALLEST), LARGEST) / largest
    return float(stored_scales(torch.tensor([step], dtype=torch.float32), kind))
