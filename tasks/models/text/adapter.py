"""An adapter that PEFT wrote, over the model it was trained on: beside its weights, then merged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FOLDED = frozenset({"LORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "HRA", "FOURIERFT"})
"""Kinds that a layer's own weights can hold; prompts and prefixes are none."""


def laid_beside(model: nn.Module, folder: Path) -> Any:
    """Lay an adapter over a model, both in float32, as PEFT's users run it.

    Args:
        model: The core; its layers are wrapped in place.
        folder: What PEFT's `save_pretrained` wrote.

    Raises:
        BadInput: PEFT is not installed, or the folder holds no adapter.
        ValueError: It is of a kind that no weights hold, or of another model.
    """
    _require_folded(folder)
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ModuleNotFoundError as error:
        raise BadInput(
            "laying an adapter over a model needs PEFT: pip install 'requant[adapters]'"
        ) from error
    from safetensors import safe_open

    try:
        adapted = PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
    except (RuntimeError, ValueError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"the adapter of {folder} does not fit this model: {line}") from error
    with safe_open(folder / WEIGHTS, "pt") as stored:
        found = set(stored.keys())
    wanted = set(get_peft_model_state_dict(adapted))
    if found != wanted:
        odd = sorted(found ^ wanted)
        raise ValueError(
            f"the adapter of {folder} is of another model: {odd[0]} is "
            f"{'not in this one' if odd[0] in found else 'missing'} ({len(odd)} such weights)"
        )
    return adapted.eval()


def merged(adapted: Any) -> Any:
    """Return the core with the adapter's share added to its weights.

    Where one of two tied layers is adapted, they are no longer tied.

    Raises:
        ValueError: The sum holds NaN or infinity.
    """
    _untie(adapted)
    return adapted.merge_and_unload(safe_merge=True).eval()


def _untie(adapted: Any) -> None:
    """Give adapted layers weights of their own: what is added to them is for nobody else."""
    from torch import nn

    readers = Counter(
        parameter.data_ptr()
        for layer in adapted.modules()
        for parameter in layer.parameters(recurse=False)
    )
    for layer in list(adapted.modules()):
        weight = getattr(getattr(layer, "base_layer", None), "weight", None)
        if weight is not None and readers[weight.data_ptr()] > 1:
            layer.base_layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


def _require_folded(folder: Path) -> None:
    try:
        kind = json.loads((folder / CONFIG).read_text()).get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(
            f"adapter.path: {folder} holds no {CONFIG} that can be read: name the folder that "
            "PEFT's save_pretrained wrote"
        ) from error
    if not (folder / WEIGHTS).is_file():
        raise BadInput(f"adapter.path: {folder} has no {WEIGHTS}: save it as safetensors")
    if kind not in FOLDED:
        raise ValueError(
            f"the adapter of {folder} is {kind}, which no weights hold: only kinds that merge are "
            f"taken ({', '.join(sorted(FOLDED))})"
        )
