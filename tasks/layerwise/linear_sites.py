"""What a decoder layer multiplies by: its linear layers by what they read, and what may be folded.

A site is a tensor that linear layers read. Its smoothing scales divide the channels of whatever
makes the tensor: a norm's weight, or the rows of the linear layer before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.models.checkpoints.experts import BLOCK, READERS, is_routed

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


_FUSED: tuple[frozenset[str], ...] = (
    frozenset({"q_proj", "k_proj", "v_proj"}),
    frozenset({"gate_proj", "up_proj"}),
    frozenset({"q_a_proj", "kv_a_proj_with_mqa"}),
)


def fused_name(name: str) -> str:
    """Return what a linear layer and those have in common that vLLM multiplies by as one matrix.

    It reads all of one in one format.
    """
    beside, _, leaf = name.rpartition(".")
    whole = next((leaves for leaves in _FUSED if leaf in leaves), (leaf,))
    return f"{beside}.{'+'.join(sorted(whole))}"


@dataclass(frozen=True, slots=True)
class LinearSite:
    """Linear layers of one decoder layer that read the same tensor."""

    readers: tuple[str, ...]  # names inside the layer
    before: str | None  # what may take smoothing scales; None: nothing

    @property
    def routed(self) -> bool:
        """Whether only tokens read it that are sent there: the linear layers are an expert's."""
        return is_routed(self.readers[0])

    @property
    def name(self) -> str:
        """Return what reports call it: no other site of the layer has this name."""
        first, *others = self.readers
        return "+".join([first, *(reader.rpartition(".")[2] for reader in others)])


def linear_sites(layer: nn.Module) -> Sequence[LinearSite]:
    """Return the sites of a decoder layer, in the order in which its linear layers were made.

    A router is none: which experts a token reaches hangs on small differences.
    """
    from torch import nn

    parts = {name for name, _ in layer.named_modules()}
    linear = [
        name
        for name, item in layer.named_modules()
        if isinstance(item, nn.Linear) and not _is_router(name, parts)
    ]
    sites: list[LinearSite] = []
    grouped: set[str] = set()
    pairs = [pair for pair in _READERS if pair[0] in parts]
    if "pre_feedforward_layernorm" in parts:
        # There a norm of this name stands behind the attention, before nothing that is multiplied.
        pairs = [pair for pair in pairs if pair[0] != "post_attention_layernorm"]
    for name in linear:
        if name in grouped:
            continue
        alone: tuple[str | None, tuple[str, ...]] = (None, _alike(layer, name))
        before, read = next((pair for pair in pairs if name in pair[1]), alone)
        readers = tuple(reader for reader in read if reader in linear)
        sites.append(LinearSite(readers, before))
        grouped.update(readers)
    return sites


def _is_router(name: str, parts: set[str]) -> bool:
    """Return whether a linear layer stands beside experts: what sends a token to them."""
    beside, _, _ = name.rpartition(".")
    return f"{beside}.{BLOCK}".removeprefix(".") in parts and not name.endswith(f".{BLOCK}")


def _alike(layer: nn.Module, name: str) -> tuple[str, ...]:
    """Return the linear layers of an expert that read what one does, as `split_experts` says."""
    expert, _, _ = name.rpartition(".")
    readers = getattr(layer.get_submodule(expert), READERS, ())
    found = tuple(f"{expert}.{reader}" for reader in readers)
    return found if name in found else (name,)
