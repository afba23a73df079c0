"""How a checkpoint is carried in a graph without operators: its tensors, and the files beside them.

A tensor that lies in a file of its own lies there as safetensors stores it, under its name: Hugging
Face's loader reads the very file whose digest the graph names (ADR 55).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from infra.weights.naming import is_beside

if TYPE_CHECKING:
    import onnx
    from onnx import TensorProto

CONFIG = "config.json"
FORM, CHECKPOINT = "requant.form", "checkpoint"
"""The graph's property, and its value."""
FILE = "file:"
"""Before the name of a file that is carried as bytes."""
_ALIGNED = 64
"""Bytes, a multiple of which stands before a tensor's numbers: they are mapped into memory."""
_NAMES = {1: "F32", 10: "F16", 16: "BF16", 17: "F8_E4M3", 3: "I8", 2: "U8", 6: "I32", 7: "I64"}
"""ONNX's data types as safetensors calls them: https://huggingface.co/docs/safetensors."""


def is_index(model: onnx.ModelProto) -> bool:
    """Return whether a graph is a checkpoint's."""
    return any(item.key == FORM and item.value == CHECKPOINT for item in model.metadata_props)


def tensors_in(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield a checkpoint's tensors as its graph names them."""
    return (item for item in model.graph.initializer if not item.name.startswith(FILE))


def files_beside(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Return what lies beside a checkpoint's tensors, by its file's name."""
    carried = (item for item in model.graph.initializer if item.name.startswith(FILE))
    return {item.name.removeprefix(FILE): item for item in carried}


def header(tensors: Iterable[tuple[TensorProto, int]]) -> bytes:
    """Return what stands before tensors' numbers in a file of safetensors.

    Args:
        tensors: With their bytes, in the order in which they are stored.
    """
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for item, size in tensors:
        described[item.name] = {
            "dtype": _NAMES[item.data_type],
            "shape": list(item.dims),
            "data_offsets": [end, end + size],
        }
        end += size
    data = json.dumps(described, separators=(",", ":")).encode()
    data += b" " * (-(8 + len(data)) % _ALIGNED)
    return len(data).to_bytes(8, "little") + data


def stored_inside(model: onnx.ModelProto) -> bytes:
    """Return the tensors that the graph holds itself as a file of safetensors."""
    small = [item for item in tensors_in(model) if not is_beside(item)]
    numbers = b"".join(item.raw_data for item in small)
    return header((item, len(item.raw_data)) for item in small) + numbers
