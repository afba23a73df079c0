"""Whether a checkpoint's tensors are those that transformers computes a layer with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from infra.errors import BadInput
from tasks.models.checkpoints.stored import CheckpointTensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_REBUILT = frozenset({"Llama4TextExperts"})
"""Modules that transformers replaces where a configuration says that the model is quantized, by
others whose tensors have other names: what was written would be read as random numbers."""


def require_names(model: PreTrainedModel, wanted: Sequence[str], stored: Sequence[str]) -> None:
    """Pass where a checkpoint holds every tensor that a model computes with, under its name.

    Args:
        model: Built without weights.
        wanted: Names of its parameters.
        stored: Names of the checkpoint's tensors.

    Raises:
        BadInput: One is missing, has another name or form, or is no parameter.
    """
    kind, held = str(model.config.model_type), frozenset(stored)
    missing = [name for name in wanted if name not in held]
    if missing:
        raise BadInput(_why_missing(model, kind, missing, held))
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    beside = [name for name in model.state_dict() if name not in known]
    if beside:
        raise BadInput(
            f"{kind} keeps {beside[0]}, which is no weight of a layer: it does not work as a "
            "checkpoint"
        )
    rebuilt = {type(module).__name__ for module in model.modules()} & _REBUILT
    if rebuilt:
        raise BadInput(
            f"transformers reads the {rebuilt.pop()} of a quantized {kind} from other tensors than "
            "its checkpoint has: it does not work as a checkpoint"
        )


def require_tied(tied: Mapping[str, str], stored: CheckpointTensors) -> None:
    """Pass where weights that a configuration ties are stored once, or twice alike.

    Args:
        tied: Names of weights that are others', by their own.
        stored: The checkpoint.

    Raises:
        BadInput: Two differ: transformers then ties them not, and vLLM does.
    """
    for name, other in tied.items():
        if name in stored and not stored.tensor(name).equal(stored.tensor(other)):
            raise BadInput(
                f"config.json ties {name} to {other}, and the checkpoint has others there: write "
                "tie_word_embeddings: false, or leave them out"
            )


def _why_missing(
    model: PreTrainedModel, kind: str, missing: Sequence[str], held: frozenset[str]
) -> str:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    prefix = f"{model.base_model_prefix}."
    lacks = f"the checkpoint lacks {', '.join(missing[:3])}"
    if any(name.removeprefix(prefix) in held for name in missing if name.startswith(prefix)):
        return (
            f"{lacks}, but has names without {prefix!r}: load it with transformers, and save it "
            "with save_pretrained"
        )
    converted = get_checkpoint_conversion_mapping(kind)
    unknown = sorted(held - {name for name, _ in model.named_parameters(remove_duplicate=False)})
    if converted and unknown:
        return (
            f"transformers computes {kind} with {missing[0]}, which it makes of {unknown[0]} and "
            "others when it loads a whole model: it does not work as a checkpoint"
        )
    if unknown:
        lacks += f", and holds {unknown[0]} that {kind} does not compute with"
    return f"{lacks}: its weights are of another model than config.json says"
