"""A checkpoint's files: what is wrong with them, and its weights mapped as float32."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from infra.errors import BadInput
from infra.processes.memory import return_freed
from infra.settings import settings
from tasks.graphs.files import stored_types
from tasks.graphs.weights import SMALLEST

INDEX = "model.safetensors.index.json"
_TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_WIDE = frozenset({"F64"})


def stored_type(folder: Path) -> torch.dtype:
    """Return the type that all floats of a folder's safetensors have; else float32, for all.

    Raises:
        BadInput: when a shard that the index names is not there.
        ValueError: when a weight is of a type that is not read.
    """
    if (folder / INDEX).is_file():
        tensor_files(folder)
    types = Counter[str]()
    for path in sorted(folder.glob("*.safetensors")):
        for name, kind in stored_types(path):
            if kind.startswith("F8") or (
                name.endswith(".weight") and kind[0] in "IUB" and kind != "BF16"
            ):
                raise ValueError(
                    f"{path.name} holds {name} in {kind}: bring the weights in float32, float16 or "
                    "bfloat16, as they were before they were quantized"
                )
            types[kind] += kind in _TYPES or kind in _WIDE
    floats = {kind for kind, count in types.items() if count}
    return _TYPES.get(floats.pop(), torch.float32) if len(floats) == 1 else torch.float32


def tensor_files(folder: Path) -> dict[str, str]:
    """Return the file of every tensor in a folder's safetensors, by the tensor's name.

    Raises:
        BadInput: There is none; the index or a file cannot be read; or a shard is missing.
    """
    if (folder / INDEX).is_file():
        try:
            placed = dict(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
            shards = {str(name) for name in placed.values()}
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise BadInput(f"{INDEX} cannot be read ({exc}): copy it again") from exc
        missing = sorted(name for name in shards if not (folder / name).is_file())
        if missing:
            raise BadInput(
                f"{INDEX} names {missing[0]}, which is not there ({len(missing)} of {len(shards)} "
                "shards are missing): copy them"
            )
        return placed
    placed = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as opened:
                placed |= dict.fromkeys(opened.keys(), path.name)
        except (SafetensorError, OSError) as exc:
            raise BadInput(f"{path.name} cannot be read ({exc}): copy it again") from exc
    if not placed:
        raise BadInput(f"{folder} has no *.safetensors: name a folder that has")
    return placed


def require_finite(model: nn.Module) -> None:
    """Raise `ValueError` naming the first weight that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        # Both extremes are NaN where a number is. What lies turned in memory would be copied.
        extremes = torch.aminmax(values if values.is_contiguous() else values.mT)
        if not all(bool(torch.isfinite(extreme)) for extreme in extremes):
            raise ValueError(f"the weight {name} holds NaN or infinity: export it again")


def is_tied(table: nn.Embedding, layer: nn.Module) -> bool:
    """Return whether a linear layer multiplies by an embedding's own table, both in one memory."""
    if not isinstance(layer, nn.Linear):
        return False
    ends = (table.weight, layer.weight)
    return ends[0].data_ptr() == ends[1].data_ptr() and ends[0].shape == ends[1].shape


def map_weights(model: nn.Module) -> None:
    """Put files in the place of a model's large weights, in float32; tied ones stay tied.

    A matrix that its layer reads transposed is stored as the graph multiplies by it, so that the
    export writes the same file. So is a table that is tied to one.
    """
    turned = {layer.weight.data_ptr() for layer in model.modules() if isinstance(layer, nn.Linear)}
    mapped: dict[int, nn.Parameter] = {}
    for layer in model.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            place = parameter.data_ptr()
            if place not in mapped:
                mapped[place] = _mapped(parameter.detach(), place in turned)
            setattr(layer, name, mapped[place])
        return_freed()  # copies of weights that are in files now


def _mapped(parameter: torch.Tensor, turned: bool) -> nn.Parameter:
    """Return a parameter of the same numbers in float32, in a file where they are many."""
    numbers = parameter.float()
    if numbers.nbytes < SMALLEST:
        # A copy: one small view would hold the whole checkpoint in memory.
        return nn.Parameter(numbers.clone(), requires_grad=False)
    stored = (numbers.T if turned else numbers).numpy()
    weights = settings().weights()
    path = weights.path(weights.keep(stored))
    # Copied on write, which nobody does: torch takes no read-only memory.
    array = np.memmap(path, np.float32, "c", shape=stored.shape)
    tensor = torch.from_numpy(np.asarray(array))
    return nn.Parameter(tensor.T if turned else tensor, requires_grad=False)
