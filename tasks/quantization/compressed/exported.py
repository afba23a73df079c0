"""A quantized language model as a compressed-tensors checkpoint, which transformers and vLLM load.

Formats `int-quantized`, `float-quantized` and `pack-quantized` of
https://github.com/vllm-project/compressed-tensors, whose own code packs and describes them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.graphs.sites import Layer, Site
from tasks.graphs.weights import constant_values
from tasks.layerwise.stored_layer import StoredLayer, described, require_package
from tasks.models.checkpoints.registering import files_beside
from tasks.models.language.checkpoint import tensor_files

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was written."""

    folder: str
    quantized: int  # layers
    kept: tuple[str, ...]  # layers in floating point
    formats: tuple[str, ...]


def write_checkpoint(
    graph: onnx.ModelProto, sites: Sequence[Site], source: Path, folder: Path
) -> Checkpoint:
    """Write a Q/DQ graph's weights into a copy of the Hugging Face folder that it came from.

    Args:
        graph: With signed quantized values, as recipes write it.
        sites: Where the full-precision graph can be quantized.
        source: The folder of the checkpoint.
        folder: Where to write; it is made.

    Raises:
        BadInput: The source is no checkpoint of this graph, or the graph has what the format cannot
            say: a prefix, smoothing scales that no layer before takes, ranges at run time,
            zero-points.
        Unavailable: The package `compressed-tensors` is missing.
    """
    require_package()
    state, config = _read(source)
    parts = {item.name: item for item in graph.graph.initializer}
    if any(name.startswith("prefix.") for name in parts):
        raise BadInput(
            "the champion stands behind a prefix, whose keys and values a checkpoint has no place "
            "for: serve the graph, or register the model without input.prefix"
        )
    layers = {
        key: stored
        for site in sites
        for layer in site.layers
        if (key := _key(layer, state)) is not None and _HEAD not in key
        if (stored := _stored(graph, parts, site, layer)) is not None
    }
    if not layers:
        raise BadInput(
            f"{source} has no layer that the champion quantizes: name the folder it was made from"
        )
    tensors = _floats(state, parts)
    for key, layer in layers.items():
        del tensors[f"{key}.weight"]
        tensors |= layer.tensors(key)
    folder.mkdir(parents=True, exist_ok=True)
    copy_beside(source, folder)
    _save(tensors, folder / WEIGHTS)
    kept = sorted(_linear_names(state) - layers.keys())
    schemes = {key: layer.scheme() for key, layer in layers.items()}
    whole = config | {"quantization_config": described(schemes, kept)}
    (folder / CONFIG).write_text(json.dumps(whole, indent=2))
    formats = tuple(sorted({item.format for item in layers.values()}))
    return Checkpoint(str(folder), len(layers), tuple(kept), formats)


def _read(source: Path) -> tuple[State, dict[str, Any]]:
    """Return every tensor of a folder's safetensors, and its configuration."""
    from safetensors.torch import load_file

    if not (source / CONFIG).is_file():
        raise BadInput(f"{source} has no {CONFIG}: name a folder as Hugging Face stores it")
    state: State = {}
    for file in sorted({*tensor_files(source).values()}):
        state |= load_file(source / file)
    return state, json.loads((source / CONFIG).read_text(encoding="utf-8"))


def _key(layer: Layer, state: State) -> str | None:
    """Return what the checkpoint calls a layer, whose name the export may have prefixed."""
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    return max((name for name in names if _is_of(name, layer.name)), key=len, default=None)


def _is_of(name: str, exported: str) -> bool:
    return exported == name or exported.endswith(f".{name}") or name.endswith(f".{exported}")


def _stored(
    graph: onnx.ModelProto, parts: Mapping[str, onnx.TensorProto], site: Site, layer: Layer
) -> StoredLayer | None:
    """Read a layer's quantized weight and its site's range; None where it stays in floats."""
    name = f"{layer.node}.weight"
    if f"{name}.quantized" not in parts:
        return None
    _require_expressible(parts, site, name)
    node = next(item for item in graph.graph.node if item.output[0] == f"{name}.dequantized")
    block = next((item.i for item in node.attribute if item.name == "block_size"), None)
    values = np.moveaxis(constant_values(parts[f"{name}.quantized"]), layer.output_axis, 0)
    scales = np.asarray(constant_values(parts[f"{name}.scale"]), np.float32)
    if block is None:
        scales = np.broadcast_to(scales.reshape(-1, 1), (len(values), 1))
    elif layer.output_axis == 1:
        scales = scales.T
    activation = parts.get(f"{site.tensor}.scale")
    input_scale = None if activation is None else float(constant_values(activation))
    bits = 4 if values.dtype.name == "int4" else 8
    return StoredLayer(_tensor(values), _tensor(scales), bits, block, input_scale)


def _tensor(values: NDArray[np.generic]) -> torch.Tensor:
    """Return an array as a tensor: FP8 as it is, integers of any width in int8."""
    import torch

    if values.dtype.name.startswith("float8"):
        raw = torch.from_numpy(np.ascontiguousarray(values).view(np.uint8).copy())
        return raw.view(torch.float8_e4m3fn)
    kind = np.float32 if values.dtype == np.float32 else np.int8
    return torch.from_numpy(np.array(values, kind))


def _require_expressible(parts: Mapping[str, onnx.TensorProto], site: Site, weight: str) -> None:
    if f"{site.tensor}.smoothing" in parts:
        raise BadInput(
            f"compressed-tensors has no place for the smoothing scales of {site.name}: export a "
            "champion without them, such as of int8-max, fp8 or int4-gptq"
        )
    if f"{weight}.zero_point" not in parts:
        raise BadInput(
            f"the weight of {site.name} is of floats in blocks, which is not written as "
            "compressed-tensors: export a champion such as of fp8 or int4-gptq"
        )
    if f"{site.tensor}.least_range" in parts:
        raise BadInput(
            f"the range of {site.name} is found for each token by nodes of the graph, which "
            "compressed-tensors does not have: export a champion with static ranges"
        )
    if np.any(np.asarray(constant_values(parts[f"{weight}.zero_point"]), np.float32)):
        raise BadInput(f"the weight of {site.name} has zero-points: export a symmetric champion")


def _floats(state: State, parts: Mapping[str, onnx.TensorProto]) -> State:
    """Return what is not quantized: where a recipe changed it, as the graph has it."""
    import torch

    tensors = dict(state)
    for name, tensor in state.items():
        changed = next((parts[item] for item in parts if _is_of(name, item)), None)
        if changed is not None and tuple(changed.dims) == tuple(tensor.shape):
            values = np.array(constant_values(changed), np.float32)
            tensors[name] = torch.from_numpy(values).to(tensor.dtype)
    return tensors


def _linear_names(state: State) -> set[str]:
    """Return the matrices of a checkpoint but its embeddings, and the head that they may be."""
    matrices = {
        name.removesuffix(".weight")
        for name, tensor in state.items()
        if name.endswith(".weight") and tensor.ndim == 2 and "embed" not in name
    }
    return matrices | {_HEAD}


def copy_beside(source: Path, folder: Path) -> None:
    """Copy a checkpoint's tokenizer, chat template and settings of generation as they are."""
    for path in files_beside(source):
        shutil.copy(path, folder / path.name)


def _save(tensors: State, path: Path) -> None:
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})
