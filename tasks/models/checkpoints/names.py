"""Whether a checkpoint's tensors are those that transformers computes a layer with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from infra.errors import BadInput
from tasks.models.checkpoints.stored import CheckpointTensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightRenaming


class StoredNames:
    """What a checkpoint calls the tensors of a model: some families were renamed since."""

    def __init__(self, model: PreTrainedModel, held: Sequence[str]) -> None:
        """Rename every tensor of a checkpoint as transformers does when it loads one.

        Args:
            model: Built without weights.
            held: Names of the checkpoint's tensors.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        found = get_model_conversion_mapping(model)
        renamings = [item for item in found if isinstance(item, WeightRenaming)]
        known = frozenset(model.state_dict())
        self.held = tuple(held)
        self._own = {name: name if name in known else _renamed(name, renamings) for name in held}
        self._stored = {own: name for name, own in self._own.items()}
        parts = {own.rpartition(".")[0]: name.rpartition(".")[0] for own, name in self._pairs()}
        self._part_stored, self._part_own = parts, {part: own for own, part in parts.items()}

    def _pairs(self) -> Iterator[tuple[str, str]]:
        return ((own, name) for own, name in self._stored.items() if own != name)

    def __contains__(self, own: object) -> bool:
        return own in self._stored

    def stored(self, own: str) -> str:
        """Return a tensor's name in the checkpoint; one that is added stands beside its module's.

        Args:
            own: The name that the model has for it.
        """
        part, _, leaf = own.rpartition(".")
        return self._stored.get(own) or f"{self._part_stored.get(part, part)}.{leaf}"

    def own(self, stored: str) -> str:
        """Return the name that the model has for a tensor of a checkpoint, as `stored` wrote it."""
        part, _, leaf = stored.rpartition(".")
        return self._own.get(stored) or f"{self._part_own.get(part, part)}.{leaf}"


def _renamed(name: str, renamings: Sequence[WeightRenaming]) -> str:
    """Return a name after every renaming in turn, as transformers applies them."""
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return name


def require_names(model: PreTrainedModel, wanted: Sequence[str], names: StoredNames) -> None:
    """Pass where a checkpoint holds every tensor that a model computes with.

    Args:
        model: Built without weights.
        wanted: Names of its parameters, and of buffers that are saved.
        names: What the checkpoint calls them.

    Raises:
        BadInput: One is missing, has another name or form, or is no parameter.
    """
    kind = str(model.config.model_type)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise BadInput(_why_missing(model, kind, missing, frozenset(names.held)))


def require_tied(tied: Mapping[str, str], stored: CheckpointTensors, names: StoredNames) -> None:
    """Pass where weights that a configuration ties are stored once, or twice alike.

    Args:
        tied: Names of weights that are others', by their own.
        stored: The checkpoint.
        names: What it calls the model's tensors.

    Raises:
        BadInput: Two differ: transformers then ties them not, and vLLM does.
    """
    for name, other in tied.items():
        first, second = names.stored(name), names.stored(other)
        if first in stored and not stored.tensor(first).equal(stored.tensor(second)):
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
