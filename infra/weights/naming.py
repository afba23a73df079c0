"""How a graph names a weight that lies in a file of its own: by the SHA-256 of its bytes (ADR 47).

It is ONNX's external data, with one file a tensor: `location` is `sha256-` and 64 digits. An offset
is that of a checkpoint's tensor, before which its file says what it is (`infra.weights.carried`).
Any runtime reads such a graph from a folder that holds its files, and a graph's own digest tells
all of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from infra.errors import BadInput, Tampered

if TYPE_CHECKING:  # a release is read, and listed, without it
    import onnx
    from onnx import TensorProto

PREFIX = "sha256-"
_EXTERNAL = 1
"""`TensorProto.EXTERNAL`."""
_GRAPH = 5
"""`AttributeProto.GRAPH`."""
_SEARCHED = 1 << 20
"""Bytes up to which the letters are looked for; of a larger graph the outline is read sooner."""
_NAME = re.compile(rf"{PREFIX}[0-9a-f]{{64}}")


def file_name(digest: str) -> str:
    """Return the name of the file whose bytes have this SHA-256."""
    return f"{PREFIX}{digest}"


def is_weight_file(name: str) -> bool:
    """Return whether a file's name is that of a weight."""
    return _NAME.fullmatch(name) is not None


def is_beside(tensor: TensorProto) -> bool:
    """Return whether a tensor's numbers lie in a file beside its graph."""
    return bool(tensor.data_location == _EXTERNAL)


def beside(
    name: str, data_type: int, shape: tuple[int, ...], file: str, size: int, offset: int = 0
) -> TensorProto:
    """Return a tensor whose `size` bytes are those of a file, from an offset to its end."""
    from onnx import TensorProto

    tensor = TensorProto(name=name, data_type=data_type, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=file)
    if offset:
        tensor.external_data.add(key="offset", value=str(offset))
    tensor.external_data.add(key="length", value=str(size))
    return tensor


def weight_file(tensor: TensorProto) -> str:
    """Return the name of the file that holds a tensor's numbers.

    Raises:
        Tampered: The graph names a file otherwise than Requant writes it.
    """
    entries = {item.key: item.value for item in tensor.external_data}
    name = entries.get("location", "")
    if not is_weight_file(name) or not entries.get("offset", "0").isdecimal():
        raise Tampered(
            f"The weight {tensor.name} is said to lie in {name!r}, which is no file of a digest, "
            "so it was not loaded: write the release again from its source, or roll back."
        )
    return str(name)


def weight_offset(tensor: TensorProto) -> int:
    """Return where in its file the numbers of a tensor begin."""
    return int(next((item.value for item in tensor.external_data if item.key == "offset"), "0"))


def weight_size(tensor: TensorProto) -> int:
    """Return the bytes of a tensor that lies beside its graph, as the graph tells them."""
    return int(next((item.value for item in tensor.external_data if item.key == "length"), "0"))


def tensors_beside(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield the constants of a graph, and of the bodies in it, whose numbers lie in files."""
    return (item for item in _constants(model.graph) if is_beside(item))


def _constants(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == _GRAPH:
                yield from _constants(attribute.g)


def weight_files(graph: bytes) -> dict[str, int]:
    """Return the files that a serialized graph reads its weights from, with their bytes.

    It is empty for a graph that holds them itself, and for bytes that are no graph.

    Raises:
        Tampered: The graph names a file otherwise than Requant writes it.
    """
    if len(graph) < _SEARCHED and PREFIX.encode() not in graph:
        return {}
    from infra.weights.outline import outline

    try:
        model = outline(graph)
    except BadInput:  # an engine's plan, which may hold the same letters
        return {}
    return {weight_file(item): weight_size(item) for item in tensors_beside(model)}


def whole_size(graph: bytes) -> int:
    """Return the bytes of a serialized graph with the weights beside it, each counted once."""
    return len(graph) + sum(weight_files(graph).values())
