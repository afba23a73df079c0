"""A quantized decoder layer, and a checkpoint of them: as it is stored, and as it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput
from tasks.layerwise.attention_cache import CacheScales, is_cache_scale, read_scales
from tasks.layerwise.stored_layer import StoredLayer
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.models.checkpoints.decoder import StreamedDecoder
from tasks.models.checkpoints.experts import ROUTED_TARGET, is_routed

if TYPE_CHECKING:
    import torch

QUANTIZATION = "quantization_config"
_SCALE = ".weight_scale"


@dataclass(frozen=True, slots=True)
class LayerNotes:
    """What its tensors do not tell of how a decoder layer was made, by names inside of it."""

    unsmoothed: tuple[str, ...] = ()  # sites that nothing before takes smoothing scales for
    scarce: tuple[str, ...] = ()  # experts' sites that few or no tokens reach, of GPTQ


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLayer:
    """What a decoder layer becomes; names are its own, without the model's prefix."""

    floats: Mapping[str, torch.Tensor]  # what is not quantized, in the checkpoint's type
    quantized: Mapping[str, StoredLayer]  # linear layers
    notes: LayerNotes = field(default_factory=LayerNotes)
    cached: Mapping[str, CacheScales] = field(default_factory=dict)  # attentions, in FP8

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the layer's parameters as it computes with them."""
        weights = {f"{name}.weight": item.dequantized() for name, item in self.quantized.items()}
        return {**self.floats, **weights}

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return what a file holds of it."""
        written = {prefix + name: value for name, value in self.floats.items()}
        for name, item in self.quantized.items():
            written |= item.tensors(prefix + name)
        for name, scales in self.cached.items():
            written |= scales.tensors(prefix + name)
        return written


@dataclass(frozen=True, slots=True)
class StoredKind:
    """What the files do not tell of a quantized linear layer."""

    bits: int  # of a weight
    block: int | None  # inputs that share a scale; None: all of them
    by_token: bool  # activations have a range a token, found at run time


class StoredKinds:
    """The kind of every quantized linear layer, as a checkpoint's configuration tells it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Read the groups that `described` wrote.

        Args:
            config: A checkpoint's config.json.
        """
        groups = config.get(QUANTIZATION, {}).get("config_groups", {}).values()
        self._kinds = {
            name: StoredKind(
                int(group["weights"]["num_bits"]),
                group["weights"].get("group_size"),
                bool((group.get("input_activations") or {}).get("dynamic", False)),
            )
            for group in groups
            for name in group["targets"]
        }

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def of(self, name: str) -> StoredKind | None:
        """Return a linear layer's kind, by its full name; None where it is in floating point."""
        return self._kinds.get(name) or (
            self._kinds.get(ROUTED_TARGET) if is_routed(name) else None
        )

    def named(self, prefix: str) -> Iterator[str]:
        """Yield the layers that are named one by one and whose names begin so."""
        return (name for name in self._kinds if name.startswith(prefix))


def layers_in(names: Iterable[str]) -> Iterator[str]:
    """Yield the quantized linear layers among the tensors of a checkpoint, by their names in it."""
    return (name.removesuffix(_SCALE) for name in names if name.endswith(_SCALE))


def read_layer(
    state: Mapping[str, torch.Tensor],
    prefix: str,
    kind_of: Callable[[str], StoredKind | None],
    device: torch.device,
    notes: LayerNotes | None = None,
) -> QuantizedLayer:
    """Return a decoder layer from its tensors.

    Args:
        state: Tensors by the full names that the model has for them.
        prefix: How they begin.
        kind_of: Returns the kind of a linear layer, by full name.
        device: Where it will compute.
        notes: What was noted when it was made; None: nobody asks.

    Raises:
        BadInput: A layer has scales, and the configuration no kind for it; or a cache has some of
            its scales alone.
    """
    own = {name.removeprefix(prefix): value.to(device) for name, value in state.items()}
    quantized: dict[str, StoredLayer] = {}
    for name in layers_in(own):
        kind = kind_of(prefix + name)
        found = kind and StoredLayer.read(own, name, kind.bits, kind.block, by_token=kind.by_token)
        if not found:
            raise BadInput(f"config.json does not say how {prefix}{name} is quantized: write both")
        quantized[name] = found
    gone = tuple(f"{name}." for name in quantized)
    floats = {
        name: value
        for name, value in own.items()
        if (not gone or not name.startswith(gone) or name.endswith(".bias"))
        and not is_cache_scale(name)
    }
    return QuantizedLayer(floats, quantized, notes or LayerNotes(), read_scales(own))


class QuantizedCheckpoint:
    """A quantized checkpoint of the workspace, read one decoder layer at a time."""

    def __init__(self, carried: CarriedCheckpoint, decoder: StreamedDecoder) -> None:
        """Look at its configuration and its tensors' names.

        Args:
            carried: The checkpoint.
            decoder: Of full precision.
        """
        self._carried, self._decoder = carried, decoder
        self._kinds = StoredKinds(carried.config)
        self._names = {decoder.names.own(name): name for name in carried.names}

    @property
    def is_quantized(self) -> bool:
        """Whether any layer has other weights than full precision."""
        return bool(self._kinds)

    def layer(self, layer: int) -> QuantizedLayer:
        """Return a layer, on the decoder's device.

        Raises:
            BadInput: It lacks what its configuration says of it.
            NotFound: A file of the workspace's weights is gone.
            Tampered: One differs from its digest.
        """
        prefix = self._decoder.prefix(layer)
        names = {own: name for own, name in self._names.items() if own.startswith(prefix)}
        lacking = [name for name in self._kinds.named(prefix) if name + _SCALE not in names]
        if lacking:
            raise BadInput(f"the checkpoint lacks {lacking[0]}{_SCALE}: write it again")
        read = self._carried.read([*names.values()])
        state = {own: read[name] for own, name in names.items()}
        return read_layer(state, prefix, self._kinds.of, self._decoder.device)
