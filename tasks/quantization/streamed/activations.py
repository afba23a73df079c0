"""What linear layers read of an activation: its static range, and the rounding that follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.numerics.formats import LARGEST, SMALLEST, NumberFormat
from tasks.numerics.histogram import ExponentHistogram
from tasks.quantization.activation.ranges import amax
from tasks.quantization.compressed.layer import StoredLayer
from tasks.quantization.recipe.schemes import PerToken, RangeRule, Static
from tasks.quantization.streamed.observing import SiteView

if TYPE_CHECKING:
    import torch
    from torch import nn


def input_scale_of(
    activation: Static | PerToken | None, view: SiteView | None, by: torch.Tensor | None
) -> float | None:
    """Return the step of a site's static range; None where it has none."""
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
    return float(np.float32(step))  # as it is stored


@contextmanager
def rounding_activations(module: nn.Module, quantized: Mapping[str, StoredLayer]) -> Iterator[None]:
    """Round what linear layers read while the context lasts, as whoever loads the result does."""
    hooks = []
    for name, item in quantized.items():
        if item.input_scale is None and not item.by_token:
            continue

        def rounded(_: Any, inputs: tuple[torch.Tensor, ...], item: StoredLayer = item) -> Any:
            return (_round_trip(inputs[0], item), *inputs[1:])

        hooks.append(module.get_submodule(name).register_forward_pre_hook(rounded))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _round_trip(values: torch.Tensor, item: StoredLayer) -> torch.Tensor:
    import torch

    wide = values.float()
    if item.input_scale is not None:
        step: torch.Tensor | float = item.input_scale
    else:
        step = wide.abs().amax(-1, keepdim=True).clamp(min=SMALLEST) / NumberFormat.INT8.largest
    units = wide / step
    if item.is_float:
        largest = NumberFormat.FP8.largest
        return (units.clamp(-largest, largest).to(torch.float8_e4m3fn).float() * step).to(
            values.dtype
        )
    return (units.round().clamp(-128, 127) * step).to(values.dtype)
