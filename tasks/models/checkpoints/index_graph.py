"""A checkpoint as a graph without operators: its constants are the checkpoint's tensors.

A graph is what a workspace registers, signs, releases and collects, with large weights in files of
their own digests (`infra.weights.naming`). Written as one, a checkpoint is kept like any model: two
that share tensors share files, and a graph's digest tells all of them. Such a file is one of
safetensors with one tensor, which other libraries read as it is. What lies beside the weights
(configuration, tokenizer, chat template) is carried as bytes. The only output is the configuration,
because there is no graph without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from infra.settings import settings
from infra.weights.carried import (
    CHECKPOINT,
    CONFIG,
    FILE,
    FORM,
    files_beside,
    header,
    tensors_in,
)
from infra.weights.naming import beside, is_beside, weight_file, weight_offset, weight_size

if TYPE_CHECKING:
    import torch

_INSIDE = 1024
"""Bytes up to which a tensor stays in the graph: a layer's scales are no files of their own."""
_OPSET, _IR = 21, 10
TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float8_e4m3fn": TensorProto.FLOAT8E4M3FN,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}
"""torch's names of what a checkpoint's tensors may be."""


def index_of(
    tensors: Iterable[tuple[str, torch.Tensor]], files: Mapping[str, bytes]
) -> onnx.ModelProto:
    """Return the graph of a checkpoint, its large tensors written into the workspace's weights.

    Args:
        tensors: By name, in any order; read one after the other.
        files: What lies beside them, `config.json` among it.

    Raises:
        Unavailable: The disk cannot hold a tensor.
    """
    constants = [_constant(name, tensor) for name, tensor in tensors]
    constants.sort(key=lambda item: item.name)
    constants += [_carried(name, files[name]) for name in sorted(files)]
    size = len(files[CONFIG])
    output = helper.make_tensor_value_info(CONFIG, TensorProto.UINT8, [size])
    node = helper.make_node("Identity", [f"{FILE}{CONFIG}"], [CONFIG], name=CONFIG)
    graph = helper.make_graph([node], CHECKPOINT, [], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version, model.producer_name = _IR, "requant"
    helper.set_model_props(model, {FORM: CHECKPOINT})
    return model


def files_in(model: onnx.ModelProto) -> dict[str, bytes]:
    """Return what lies beside a checkpoint's tensors, by name.

    Raises:
        NotFound: A file of the workspace's weights is gone.
        Tampered: One differs from its digest.
    """
    return {
        name: _path(item).read_bytes() if is_beside(item) else item.raw_data
        for name, item in files_beside(model).items()
    }


def size_of(model: onnx.ModelProto) -> int:
    """Return the bytes of a checkpoint's tensors."""
    return sum(map(bytes_of, tensors_in(model)))


def bytes_of(item: TensorProto) -> int:
    """Return the bytes of one tensor."""
    return weight_size(item) if is_beside(item) else len(item.raw_data)


def tensor_of(item: TensorProto) -> torch.Tensor:
    """Return a tensor of a checkpoint, mapped from its file where it has one.

    Raises:
        NotFound: Its file is gone.
        Tampered: It differs from its digest.
    """
    import torch

    kind = getattr(torch, _NAMES[item.data_type])
    # Copied on write, which nobody does: torch takes no read-only memory.
    data = (
        np.memmap(_path(item), np.uint8, "c", weight_offset(item))
        if is_beside(item)
        else np.frombuffer(bytearray(item.raw_data), np.uint8)
    )
    return torch.from_numpy(np.asarray(data)).view(kind).reshape(tuple(item.dims))


_NAMES = {number: name for name, number in TYPES.items()}


def _path(item: TensorProto) -> Path:
    return settings().weights().path(weight_file(item))


def _constant(name: str, tensor: torch.Tensor) -> TensorProto:
    import torch

    kind = TYPES[str(tensor.dtype).removeprefix("torch.")]
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    constant = TensorProto(name=name, data_type=kind, dims=tuple(tensor.shape))
    if data.nbytes <= _INSIDE:
        constant.raw_data = data.tobytes()
        return constant
    before = header([(constant, data.nbytes)])
    file = settings().weights().keep(data, before)
    return beside(name, kind, tuple(tensor.shape), file, data.nbytes, len(before))


def _carried(name: str, data: bytes) -> TensorProto:
    # The configuration is what the graph returns, and lies in it: no runtime looks for a file.
    shape, kind = (len(data),), TensorProto.UINT8
    if name == CONFIG or len(data) <= _INSIDE:
        return TensorProto(name=f"{FILE}{name}", data_type=kind, dims=shape, raw_data=data)
    file = settings().weights().keep(np.frombuffer(data, np.uint8))
    return beside(f"{FILE}{name}", kind, shape, file, len(data))
