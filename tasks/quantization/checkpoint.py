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

from infra.errors import BadInput, Unavailable
from tasks.graphs.sites import Layer, Site
from tasks.graphs.weights import constant_values

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_COPIED = ("tokenizer", "special_tokens", "chat_template", "generation_config", "vocab", "merges")
"""How files of a checkpoint begin that are taken as they are."""
_HEAD = "lm_head"
_PACKED, _FLOATS, _INTEGERS = "pack-quantized", "float-quantized", "int-quantized"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was written."""

    folder: str
    quantized: int  # layers
    kept: tuple[str, ...]  # layers in floating point
    formats: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _StoredLayer:
    """One layer's weight as the Q/DQ graph has it."""

    values: NDArray[np.generic]  # [outputs, inputs]
    scales: NDArray[np.float32]  # [outputs, 1] or [outputs, blocks]
    block: int | None
    input_scale: float | None  # None: activations are not quantized

    @property
    def format(self) -> str:
        """Return the name of its format."""
        if self.input_scale is None:
            return _PACKED
        return _FLOATS if self.values.dtype.name.startswith("float8") else _INTEGERS

    @property
    def bits(self) -> int:
        """Return the bits of a weight."""
        return 4 if self.values.dtype.name == "int4" else 8

    def scheme(self) -> dict[str, Any]:
        """Return what a config group says of it."""
        kind = "float" if self.format == _FLOATS else "int"
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
            "strategy": "tensor",
            "dynamic": False,
        }
        return {
            "weights": weights,
            "input_activations": None if self.input_scale is None else inputs,
            "format": self.format,
        }


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
            say: smoothing scales that no layer before takes, ranges at run time, zero-points.
        Unavailable: The package `compressed-tensors` is missing.
    """
    _require_package()
    state, config = _read(source)
    parts = {item.name: item for item in graph.graph.initializer}
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
    tensors = _floats(state, parts) | _quantized(layers)
    for key in layers:
        tensors.pop(f"{key}.weight", None) if layers[key].format == _PACKED else None
    folder.mkdir(parents=True, exist_ok=True)
    _copy(source, folder)
    _save(tensors, folder / WEIGHTS)
    kept = sorted(_linear_names(state) - layers.keys())
    described = config | {"quantization_config": _described(layers, kept)}
    (folder / CONFIG).write_text(json.dumps(described, indent=2))
    formats = tuple(sorted({item.format for item in layers.values()}))
    return Checkpoint(str(folder), len(layers), tuple(kept), formats)


def _require_package() -> None:
    try:
        import compressed_tensors  # noqa: F401
    except ImportError as exc:
        raise Unavailable(
            "writing such a checkpoint needs a library: pip install 'requant[compressed-tensors]'"
        ) from exc


def _read(source: Path) -> tuple[State, dict[str, Any]]:
    """Return every tensor of a folder's safetensors, and its configuration."""
    from safetensors.torch import load_file

    files = sorted(source.glob("*.safetensors"))
    if not files or not (source / CONFIG).is_file():
        raise BadInput(f"{source} has no {CONFIG} with safetensors: name a Hugging Face folder")
    state: State = {}
    for file in files:
        state |= load_file(file)
    return state, json.loads((source / CONFIG).read_text(encoding="utf-8"))


def _key(layer: Layer, state: State) -> str | None:
    """Return what the checkpoint calls a layer, whose name the export may have prefixed."""
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    return max((name for name in names if _is_of(name, layer.name)), key=len, default=None)


def _is_of(name: str, exported: str) -> bool:
    return exported == name or exported.endswith(f".{name}") or name.endswith(f".{exported}")


def _stored(
    graph: onnx.ModelProto, parts: Mapping[str, onnx.TensorProto], site: Site, layer: Layer
) -> _StoredLayer | None:
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
    return _StoredLayer(values, np.ascontiguousarray(scales), block, input_scale)


def _require_expressible(parts: Mapping[str, onnx.TensorProto], site: Site, weight: str) -> None:
    if f"{site.tensor}.smoothing" in parts:
        raise BadInput(
            f"compressed-tensors has no place for the smoothing scales of {site.name}: export a "
            "champion without them, such as of int8-max, fp8 or int4-gptq"
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


def _quantized(layers: Mapping[str, _StoredLayer]) -> State:
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    tensors: State = {}
    for name, layer in layers.items():
        tensors[f"{name}.weight_scale"] = torch.from_numpy(layer.scales.copy())
        if layer.input_scale is not None:
            tensors[f"{name}.input_scale"] = torch.tensor([layer.input_scale])
        if layer.format == _FLOATS:
            raw = torch.from_numpy(np.ascontiguousarray(layer.values).view(np.uint8).copy())
            tensors[f"{name}.weight"] = raw.view(torch.float8_e4m3fn)
            continue
        integers = torch.from_numpy(np.ascontiguousarray(layer.values.astype(np.int8)))
        if layer.format == _INTEGERS:
            tensors[f"{name}.weight"] = integers
        else:
            tensors[f"{name}.weight_packed"] = pack_to_int32(integers, layer.bits)
            tensors[f"{name}.weight_shape"] = torch.tensor(layer.values.shape)
    return tensors


def _described(layers: Mapping[str, _StoredLayer], kept: Sequence[str]) -> dict[str, Any]:
    """Return the `quantization_config`, a group for each scheme."""
    groups: dict[str, dict[str, Any]] = {}
    for name, layer in layers.items():
        scheme = layer.scheme()
        group = groups.setdefault(json.dumps(scheme, sort_keys=True), {"targets": [], **scheme})
        group["targets"].append(name)
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {f"group_{place}": group for place, group in enumerate(groups.values())},
        "ignore": list(kept),
    }


def _linear_names(state: State) -> set[str]:
    """Return the matrices of a checkpoint but its embeddings, and the head that they may be."""
    matrices = {
        name.removesuffix(".weight")
        for name, tensor in state.items()
        if name.endswith(".weight") and tensor.ndim == 2 and "embed" not in name
    }
    return matrices | {_HEAD}


def _copy(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and path.name.startswith(_COPIED):
            shutil.copy(path, folder / path.name)


def _save(tensors: State, path: Path) -> None:
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})
