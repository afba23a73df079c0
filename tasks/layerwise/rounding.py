"""What linear layers read and attentions cache, rounded as whoever loads the checkpoint does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tasks.layerwise.attention_cache import at_the_cache, round_to_fp8
from tasks.layerwise.quantized import QuantizedLayer
from tasks.layerwise.stored_layer import StoredLayer
from tasks.numerics.formats import SMALLEST, NumberFormat

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def as_served(module: nn.Module, made: QuantizedLayer) -> Iterator[None]:
    """Round what a loaded layer's linear layers read, and what it caches, in this context."""
    changes = {name: scales.rounded for name, scales in made.cached.items()}
    with rounding_activations(module, made.quantized), at_the_cache(module, changes):
        yield


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
    wide = values.float()
    largest = (NumberFormat.FP8 if item.is_float else NumberFormat.INT8).largest
    if item.input_scale is not None:
        step: torch.Tensor | float = item.input_scale
    else:
        step = wide.abs().amax(-1, keepdim=True).clamp(min=SMALLEST) / largest
    if item.is_float:
        return round_to_fp8(values, step)
    return ((wide / step).round().clamp(-128, 127) * step).to(values.dtype)
