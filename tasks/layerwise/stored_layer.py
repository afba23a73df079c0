"""One quantized layer of a compressed-tensors checkpoint, and the description of them all.

Formats `int-quantized`, `float-quantized` and `pack-quantized` of
https://github.com/vllm-project/compressed-tensors, whose own code packs and unpacks them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import Unavailable
from tasks.layerwise.attention_cache import SCHEME
from tasks.models.checkpoints.experts import ROUTED_TARGET, is_routed
from tasks.specs.form import why_not_written

if TYPE_CHECKING:
    import torch

    State = Mapping[str, torch.Tensor]

PACKED, FLOATS, INTEGERS = "pack-quantized", "float-quantized", "int-quantized"


@dataclass(frozen=True, slots=True, eq=False)
class StoredLayer:
    """One layer's weight, and the range of what it reads."""

    values: torch.Tensor  # [outputs, inputs]: int8 for integers of any width, float8_e4m3fn
    scales: torch.Tensor  # [outputs, 1] or [outputs, blocks], as they are stored
    bits: int  # of a weight
    block: int | None  # inputs that share a scale; None: all of them
    input_scale: float | None  # of a static range, per tensor; None: there is none
    by_token: bool = False  # activations have a range a token, found at run time

    @property
    def is_float(self) -> bool:
        """Whether the values are FP8."""
        return self.values.is_floating_point()

    @property
    def format(self) -> str:
        """Return the name of its format."""
        if self.input_scale is None and not self.by_token:
            return PACKED
        return FLOATS if self.is_float else INTEGERS

    def dequantized(self) -> torch.Tensor:
        """Return what is multiplied by, in float32: [outputs, inputs]."""
        outputs, inputs = self.values.shape
        wide = self.values.float()
        if self.block is None:
            return wide * self.scales.float()
        whole = wide.view(outputs, inputs // self.block, self.block)
        return (whole * self.scales.float()[:, :, None]).view(outputs, inputs)

    def scheme(self) -> dict[str, Any]:
        """Return what a config group says of it."""
        kind = "float" if self.is_float else "int"
        weights: dict[str, Any] = {"num_bits": self.bits, "type": kind, "symmetric": True}
        weights |= (
            {"strategy": "channel"}
            if self.block is None
            else {"strategy": "group", "group_size": self.block}
        )
        inputs = {
            "num_bits": 8,
            "type": kind,
            "symmetric": True,
            "strategy": "token" if self.by_token else "tensor",
            "dynamic": self.by_token,
        }
        return {
            "weights": weights,
            "input_activations": None if self.format == PACKED else inputs,
            "format": self.format,
        }

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Return what a file of weights holds of the layer with this name."""
        import torch

        written = {f"{name}.weight_scale": self.scales.contiguous()}
        if self.input_scale is not None:
            written[f"{name}.input_scale"] = torch.tensor([self.input_scale])
        if self.format != PACKED:
            written[f"{name}.weight"] = self.values.contiguous()
            return written
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

        written[f"{name}.weight_packed"] = pack_to_int32(self.values.contiguous(), self.bits)
        written[f"{name}.weight_shape"] = torch.tensor(self.values.shape)
        return written

    @classmethod
    def read(
        cls, state: State, name: str, bits: int, block: int | None, *, by_token: bool = False
    ) -> StoredLayer | None:
        """Return the layer that `tensors` wrote under this name; None where it is in floats."""
        scales = state.get(f"{name}.weight_scale")
        if scales is None:
            return None
        ranges, values = state.get(f"{name}.input_scale"), state.get(f"{name}.weight")
        if values is None:
            import torch
            from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

            shape = torch.Size(state[f"{name}.weight_shape"].tolist())
            values = unpack_from_int32(state[f"{name}.weight_packed"], bits, shape)
        reach = None if ranges is None else float(ranges)
        return cls(values, scales, bits, block, reach, by_token)


def described(
    schemes: Mapping[str, dict[str, Any]], kept: Sequence[str], *, caches: bool = False
) -> dict[str, Any]:
    """Return a configuration's `quantization_config`.

    Args:
        schemes: What `StoredLayer.scheme` says, by layer; each different one becomes a group.
            Routed experts are all of one.
        kept: Layers in floating point.
        caches: Whether attentions have scales for keys and values in FP8.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, scheme in sorted(schemes.items()):
        routed = is_routed(name)
        key = json.dumps([routed, scheme], sort_keys=True)
        group = groups.setdefault(key, {"targets": [], **scheme})
        if not routed:
            group["targets"].append(name)
        elif not group["targets"]:
            group["targets"].append(ROUTED_TARGET)
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {f"group_{place}": group for place, group in enumerate(groups.values())},
        "ignore": list(kept),
        **({"kv_cache_scheme": SCHEME} if caches else {}),
    }


def require_package() -> None:
    """Raise `Unavailable` where `compressed-tensors` is not installed."""
    reason = why_not_written()
    if reason is not None:
        raise Unavailable(reason)
