"""What a decoder layer multiplies by: its linear layers by what they read, and what may be folded.

A site is a tensor that linear layers read. Its smoothing scales divide the channels of whatever
makes the tensor: a norm's weight, or the rows of the linear layer before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_READERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attn.v_proj", ("self_attn.o_proj",)),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("pre_feedforward_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
)
"""What makes a tensor, and who reads it, in the names of Llama and its relatives. Whether a fold
changes nothing is tried on each layer before it is used: `tasks.quantization.streamed.folding`."""


@dataclass(frozen=True, slots=True)
class LinearSite:
    """Linear layers of one decoder layer that read the same tensor."""

    readers: tuple[str, ...]  # names inside the layer
    before: str | None  # what may take smoothing scales; None: nothing

    @property
    def name(self) -> str:
        """Return what reports call it: no other site of the layer has this name."""
        first, *others = self.readers
        return "+".join([first, *(reader.rpartition(".")[2] for reader in others)])


def linear_sites(layer: nn.Module) -> Sequence[LinearSite]:
    """Return the sites of a decoder layer, in the order in which its linear layers were made."""
    from torch import nn

    linear = [name for name, item in layer.named_modules() if isinstance(item, nn.Linear)]
    parts = {name for name, _ in layer.named_modules()}
    sites: list[LinearSite] = []
    grouped: set[str] = set()
    pairs = [pair for pair in _READERS if pair[0] in parts]
    if "pre_feedforward_layernorm" in parts:
        # There a norm of this name stands behind the attention, before nothing that is multiplied.
        pairs = [pair for pair in pairs if pair[0] != "post_attention_layernorm"]
    for name in linear:
        if name in grouped:
            continue
        alone: tuple[str | None, tuple[str, ...]] = (None, (name,))
        before, read = next((pair for pair in pairs if name in pair[1]), alone)
        readers = tuple(reader for reader in read if reader in linear)
        sites.append(LinearSite(readers, before))
        grouped.update(readers)
    return sites
