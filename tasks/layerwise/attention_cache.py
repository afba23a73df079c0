"""Keys and values as an attention hands them to its cache: seen there, and rounded to FP8.

They are rotated by then, and no head that shares them has its copy. compressed-tensors puts itself
in the same place, and vLLM stores in FP8 what it is handed there, the tokens of a prompt too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat

if TYPE_CHECKING:
    import torch
    from torch import nn

    Handed = tuple[torch.Tensor, torch.Tensor]

SCHEME = {
    "num_bits": 8,
    "type": "float",
    "symmetric": True,
    "strategy": "tensor",
    "dynamic": False,
}
"""What `quantization_config.kv_cache_scheme` says: one static scale a tensor."""
_KEY, _VALUE = ".k_scale", ".v_scale"
_ARGUMENT = "past_key_values"


@dataclass(frozen=True, slots=True)
class CacheScales:
    """Steps of one attention's keys and values in FP8: largest magnitude / 448."""

    key: float
    value: float

    def rounded(self, keys: torch.Tensor, values: torch.Tensor) -> Handed:
        """Return keys and values as they are read from the cache."""
        return round_to_fp8(keys, self.key), round_to_fp8(values, self.value)

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Return what a file of weights holds for the attention with this name."""
        import torch

        return {
            f"{name}{_KEY}": torch.tensor([self.key]),
            f"{name}{_VALUE}": torch.tensor([self.value]),
        }


def is_cache_scale(name: str) -> bool:
    """Return whether a tensor of this name is one that `CacheScales.tensors` writes."""
    return name.endswith((_KEY, _VALUE))


def read_scales(state: Mapping[str, torch.Tensor]) -> dict[str, CacheScales]:
    """Return the scales among a layer's tensors, by attention.

    Raises:
        BadInput: One of keys is without one of values, or the other way round.
    """
    names = {name.rpartition(".")[0] for name in state if is_cache_scale(name)}
    for name in names:
        if f"{name}{_KEY}" not in state or f"{name}{_VALUE}" not in state:
            raise BadInput(f"{name} has a scale of keys or of values alone: write both")
    return {
        name: CacheScales(float(state[f"{name}{_KEY}"]), float(state[f"{name}{_VALUE}"]))
        for name in sorted(names)
    }


def cached_attentions(layer: nn.Module) -> tuple[str, ...]:
    """Return the attentions of a layer whose keys and values compressed-tensors has scales for."""
    from compressed_tensors.quantization.lifecycle.initialize import is_cached_attention_module

    return tuple(name for name, part in layer.named_modules() if is_cached_attention_module(part))


@contextmanager
def at_the_cache(
    layer: nn.Module, changes: Mapping[str, Callable[[torch.Tensor, torch.Tensor], Handed]]
) -> Iterator[None]:
    """Change what attentions hand to their cache, [batch, heads, tokens, width], in this context.

    A context inside of another comes after it.

    Args:
        layer: A loaded decoder layer.
        changes: By attention, what keys and values become.
    """
    from transformers import DynamicCache

    hooks = []
    for name, change in changes.items():

        def hand(
            _: Any,
            positional: tuple[Any, ...],
            named: dict[str, Any],
            change: Callable[[torch.Tensor, torch.Tensor], Handed] = change,
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            outer, cache = named.get(_ARGUMENT), DynamicCache()

            def update(keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> Handed:
                handed = (keys, values) if outer is None else outer.update(keys, values)
                return change(*handed)

            cache.update = update  # keeps nothing
            return positional, named | {_ARGUMENT: cache}

        attention = layer.get_submodule(name)
        hooks.append(attention.register_forward_pre_hook(hand, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def seeing(
    layer: nn.Module,
    names: Mapping[str, Callable[[torch.Tensor, torch.Tensor], None]],
) -> Iterator[None]:
    """Show what attentions hand to their cache, as [batch, tokens, heads * width].

    Args:
        layer: A loaded decoder layer.
        names: By attention, what is shown its keys and values.
    """

    def shown(show: Callable[[torch.Tensor, torch.Tensor], None]) -> Callable[..., Handed]:
        def see(keys: torch.Tensor, values: torch.Tensor) -> Handed:
            show(keys.transpose(1, 2).flatten(2), values.transpose(1, 2).flatten(2))
            return keys, values

        return see

    with at_the_cache(layer, {name: shown(show) for name, show in names.items()}):
        yield


def round_to_fp8(values: torch.Tensor, step: torch.Tensor | float) -> torch.Tensor:
    """Return values as E4M3 in units of a step represents them, computed in float32."""
    import torch

    largest = NumberFormat.FP8.largest
    units = (values.float() / step).clamp(-largest, largest)
    return (units.to(torch.float8_e4m3fn).float() * step).to(values.dtype)
