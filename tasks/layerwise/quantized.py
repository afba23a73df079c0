"""A quantized decoder layer, and a checkpoint of them: as it is stored, and as it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput
from tasks.layerwise.stored_layer import StoredLayer
from tasks.models.checkpoints.carried import CarriedCheckpoint

if TYPE_CHECKING:
    import torch

QUANTIZATION = "quantization_config"


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLayer:
    """What a decoder layer becomes; names are its own, without the model's prefix."""

    floats: Mapping[str, torch.Tensor]  # what is not quantized, in the checkpoint's type
    quantized: Mapping[str, StoredLayer]  # linear layers
    unsmoothed: tuple[str, ...]  # sites that nothing before takes smoothing scales for

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the layer's parameters as it computes with them."""
        weights = {f"{name}.weight": item.dequantized() for name, item in self.quantized.items()}
        return {**self.floats, **weights}

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return what a file holds of it."""
        written = {prefix + name: value for name, value in self.floats.items()}
        for name, item in self.quantized.items():
            written |= item.tensors(prefix + name)
        return written


@dataclass(frozen=True, slots=True)
class StoredKind:
    """What the files do not tell of a quantized linear layer."""

    bits: int  # of a weight
    by_token: bool  # activations have a range a token, found at run time


def kinds_of(config: Mapping[str, Any]) -> dict[str, StoredKind]:
    """Return the kind of every quantized linear layer, by its full name.

    Args:
        config: A checkpoint's config.json, as `described` wrote what is quantized.
    """
    groups = config.get(QUANTIZATION, {}).get("config_groups", {}).values()
    return {
        name: StoredKind(
            int(group["weights"]["num_bits"]),
            bool((group.get("input_activations") or {}).get("dynamic", False)),
        )
        for group in groups
        for name in group["targets"]
    }


def read_layer(
    state: Mapping[str, torch.Tensor],
    prefix: str,
    kinds: Mapping[str, StoredKind],
    device: torch.device,
    unsmoothed: tuple[str, ...] = (),
) -> QuantizedLayer:
    """Return a decoder layer from its tensors.

    Args:
        state: Tensors by full name.
        prefix: How they begin.
        kinds: Of its quantized linear layers, by full name.
        device: Where it will compute.
        unsmoothed: Sites that nothing before takes smoothing scales for.
    """
    own = {name.removeprefix(prefix): value.to(device) for name, value in state.items()}
    quantized: dict[str, StoredLayer] = {}
    for full, kind in kinds.items():
        if not full.startswith(prefix):
            continue
        name = full.removeprefix(prefix)
        found = StoredLayer.read(own, name, kind.bits, by_token=kind.by_token)
        if found is None:
            raise BadInput(f"the checkpoint lacks {full}.weight_scale: write it again")
        quantized[name] = found
    gone = tuple(f"{name}." for name in quantized)
    floats = {
        name: value
        for name, value in own.items()
        if not gone or not name.startswith(gone) or name.endswith(".bias")
    }
    return QuantizedLayer(floats, quantized, unsmoothed)


class QuantizedCheckpoint:
    """A quantized checkpoint of the workspace, read one decoder layer at a time."""

    def __init__(self, carried: CarriedCheckpoint) -> None:
        """Look at its configuration and its tensors' names."""
        self._carried = carried
        self._kinds = kinds_of(carried.config)

    @property
    def is_quantized(self) -> bool:
        """Whether any layer has other weights than full precision."""
        return bool(self._kinds)

    def layer(self, prefix: str, device: torch.device) -> QuantizedLayer:
        """Return the layer whose tensors' names begin so; raises as `CarriedCheckpoint.read`."""
        names = [name for name in self._carried.names if name.startswith(prefix)]
        kinds = {name: kind for name, kind in self._kinds.items() if name.startswith(prefix)}
        return read_layer(self._carried.read(names), prefix, kinds, device)
