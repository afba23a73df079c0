"""Routed experts, each with linear layers of its own, as checkpoints store them.

transformers computes all experts of a layer with two tensors, [experts, outputs, inputs], which it
stacks when it loads a model. Nothing is observed, quantized or written in these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

STACKED, DOWN = "gate_up_proj", "down_proj"
_ROUTED = re.compile(r"(?:^|\.)experts\.\d+\.")
BLOCK = "experts"
"""What every family calls the part of a layer that holds its experts; routers stand beside it."""
READERS = "readers"
"""The attribute of an expert that names those of its linear layers that read the same."""
ROUTED_TARGET = r"re:.*\.experts\..*"
"""What finds routed experts in a quantization config. vLLM asks for names of its own, whatever the
checkpoint calls them, and transformers looks for the word in a regular expression."""


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """What a family's checkpoints call the linear layers of an expert."""

    gate: str
    up: str
    down: str


def is_routed(name: str) -> bool:
    """Return whether a linear layer is one of an expert that only some tokens reach."""
    return _ROUTED.search(name) is not None


def split_experts(model: PreTrainedModel) -> None:
    """Give every routed expert linear layers without weights, under its checkpoint's names.

    Raises:
        BadInput: The family stores or computes its experts in another way.
    """
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if STACKED in dict(module.named_parameters(recurse=False))
    ]
    if not stacks:
        return
    names = _names_of(model)
    for place, experts in stacks:
        if names is None or not _is_usual(experts):
            raise BadInput(
                f"{model.config.model_type} stores all experts of a layer in one tensor ({place}."
                f"{STACKED}), and quantized ones are stored one by one: {_why_not(experts)}, so "
                "that it does not work as a checkpoint"
            )
        _split(experts, names)


def _why_not(experts: nn.Module) -> str:
    from transformers import __version__
    from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION

    if type(experts).__name__ in MODULES_TO_PATCH_FOR_QUANTIZATION:
        return "transformers computes these with other modules, whose tensors are not written here"
    return f"transformers {__version__} has no rule to read these (a newer one may have)"


def _is_usual(experts: nn.Module) -> bool:
    """Return whether `_routed` computes what the family does.

    These are the marks that transformers' `use_experts_implementation` leaves, whose kernels take
    the place of a family's own code.
    """
    wanted = {
        "has_gate": True,
        "has_bias": False,
        "has_post_expert_norm": False,
        "is_transposed": False,
        "is_concatenated": True,
    }
    return hasattr(experts, "_apply_gate") and all(
        getattr(experts, name, None) is value for name, value in wanted.items()
    )


def _names_of(model: PreTrainedModel) -> ExpertNames | None:
    """Return the names that transformers stacks when it loads a family; None: it does not."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    found = {
        target.rpartition(".")[2]: [source.rpartition("*.")[2] for source in item.source_patterns]
        for item in get_model_conversion_mapping(model)
        for target in item.target_patterns
        if all("experts.*." in source for source in item.source_patterns)
    }
    sources = [*found.get(STACKED, ()), *found.get(DOWN, ())]
    if len(sources) != 3 or not all(source.endswith(".weight") for source in sources):
        return None
    return ExpertNames(*(source.removesuffix(".weight") for source in sources))


def _split(experts: nn.Module, names: ExpertNames) -> None:
    from torch import nn

    count, outputs, inputs = getattr(experts, STACKED).shape
    delattr(experts, STACKED)
    delattr(experts, DOWN)
    shapes = {
        names.gate: (inputs, outputs // 2),
        names.up: (inputs, outputs // 2),
        names.down: (outputs // 2, inputs),
    }
    for number in range(count):
        expert = nn.Module()
        for name, (read, written) in shapes.items():
            expert.add_module(name, nn.Linear(read, written, bias=False, device="meta"))
        setattr(expert, READERS, (names.gate, names.up))
        experts.add_module(str(number), expert.requires_grad_(False))
    experts.forward = partial(_routed, experts, names)


def _routed(
    experts: Any,
    names: ExpertNames,
    hidden: torch.Tensor,
    chosen: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Return what experts make of tokens, as `transformers.integrations.moe` adds it up.

    Args:
        experts: With `_split`'s linear layers.
        names: Of these.
        hidden: [tokens, width].
        chosen: Which experts a token reaches, [tokens, chosen].
        weights: By how much, likewise.
    """
    import torch

    tokens, most = chosen.shape
    kind = torch.result_type(hidden, weights)
    made = hidden.new_zeros((tokens, most, hidden.shape[-1]), dtype=kind)
    for number in sorted({*chosen.flatten().tolist()}):
        token, place = torch.where(chosen == number)
        expert, read = getattr(experts, str(number)), hidden[token]
        gate_up = torch.cat(
            (getattr(expert, names.gate)(read), getattr(expert, names.up)(read)), -1
        )
        written = getattr(expert, names.down)(experts._apply_gate(gate_up))
        made[token, place] = written * weights[token, place, None]
    summed: torch.Tensor = made.sum(1).to(hidden.dtype)
    return summed
