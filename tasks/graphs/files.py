"""Read an ONNX file and the weights that lie beside it.

What cannot be taken is refused before any weight is read.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_model,
    load_external_data_for_tensor,
    uses_external_data,
)
from onnx.inliner import inline_local_functions

from infra.errors import BadInput
from infra.processes.memory import require_memory
from infra.weights.naming import is_beside
from tasks.graphs.memory import (
    EXPORT_COPIES,
    READY_COPIES,
    export_footprint,
    export_footprint_beside,
)
from tasks.graphs.weights import SMALLEST, are_large, constant_values, large_beside

LIMIT = (1 << 31) - 1
"""Bytes of one protobuf message: a graph travels through releases, registry and runtimes as one."""
_NO_NUMBERS = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
_PACKED = frozenset(
    onnx.TensorProto.DataType.Value(name)
    for name in ("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1")
)


def load_graph(path: Path) -> onnx.ModelProto:
    """Return the graph with all of its weights inside, and its own functions expanded.

    Raises:
        BadInput: when the file is no ONNX; when a file of weights is missing, too short, or not
            inside the model's folder; when both together are more than one graph can hold.
    """
    model = read_untouched(path)
    if not model.functions:
        return model
    _spell_defaults(model)
    return inline_local_functions(model)


def _spell_defaults(model: onnx.ModelProto) -> None:
    """Write what a function's attributes are by default into its calls, which onnx 1.21 forgets."""
    functions = {(item.domain, item.name, item.overload): item for item in model.functions}
    graphs = [model.graph.node, *(item.node for item in model.functions)]
    while graphs:
        for node in graphs.pop():
            graphs += [body.node for item in node.attribute for body in (item.g, *item.graphs)]
            function = functions.get((node.domain, node.op_type, node.overload))
            given = {item.name for item in node.attribute}
            defaults = function.attribute_proto if function else ()
            node.attribute.extend(item for item in defaults if item.name not in given)


def _name_once(graph: onnx.GraphProto) -> None:
    """Take the names of nodes that others have before them, which runtimes refuse."""
    met: set[str] = set()
    for node in graph.node:
        if node.name in met:
            node.name = ""
        met.add(node.name)
        for item in node.attribute:
            for body in (item.g, *item.graphs):
                _name_once(body)


def read_untouched(path: Path) -> onnx.ModelProto:
    """Return the graph of a file as it is; weights that are large together lie beside it.

    Raises:
        BadInput: as `load_graph` does.
    """
    require_room(path.stat().st_size, where=str(path), copies=READY_COPIES)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as exc:  # protobuf's and onnx's own kinds
        raise BadInput(f"source: {path} is no readable ONNX file: {_first_line(exc)}") from exc
    _name_once(model.graph)
    for tensor in _tensors(model.graph):
        _require_whole(tensor, path)
    outside = sum(
        _length(tensor, path) for tensor in _tensors(model.graph) if uses_external_data(tensor)
    )
    size = path.stat().st_size + outside
    if are_large(size):
        require_room_beside(size, 0, where=str(path), mapped=False)
        _move_beside(model, path.parent)
        return model
    require_room(size, where=str(path), copies=READY_COPIES)
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as exc:  # onnx's own kinds: it refuses links, whose targets may change
        line = _first_line(exc)
        remedy = "copy the folder without links, by cp -rL" if "link" in line else "export it again"
        raise BadInput(
            f"source: the weights beside {path} cannot be read ({line}): {remedy}"
        ) from exc
    return model


def _move_beside(model: onnx.ModelProto, folder: Path) -> None:
    """Write a graph's constants to files of their own, one by one."""
    for tensor in _tensors(model.graph):
        if uses_external_data(tensor):
            tensor.CopyFrom(large_beside(_mapped(tensor, folder), tensor.name))
    for tensor in model.graph.initializer:
        if not is_beside(tensor) and tensor.ByteSize() >= SMALLEST:
            tensor.CopyFrom(large_beside(constant_values(tensor), tensor.name))


def _mapped(tensor: onnx.TensorProto, folder: Path) -> NDArray[np.generic]:
    """Return the numbers of a tensor that lies in a file of the model's folder."""
    info, shape = ExternalDataInfo(tensor), tuple(tensor.dims)
    if tensor.data_type in _PACKED or not math.prod(shape):
        inside = onnx.TensorProto()
        inside.CopyFrom(tensor)
        load_external_data_for_tensor(inside, str(folder))
        return constant_values(inside)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    place = (folder / info.location).resolve()
    return np.asarray(np.memmap(place, dtype, "r", offset=info.offset or 0, shape=shape))


def require_room(size: int, *, where: str, copies: int = EXPORT_COPIES) -> None:
    """Raise where so many bytes of graph and weights are too many, naming the size.

    Raises:
        BadInput: when it is more than protobuf can hold.
        Unavailable: when it is more than the memory here is enough for.
    """
    if size > LIMIT:
        raise BadInput(
            f"source: {where} holds {size / 1e9:.2f} GB of graph and weights, and a graph must "
            "stay under "
            f"{LIMIT / 1e9:.2f} GB: split the model, or export a smaller one"
        )
    require_memory(
        export_footprint(size, copies),
        f"registering {where}",
        "free some, or register it on a larger machine",
    )


def require_room_beside(size: int, largest: int, *, where: str, mapped: bool) -> None:
    """Raise `Unavailable` where an export whose weights go to files needs more memory than is here.

    Mapped files count too: what does not fit is read from the disk again at every pass. The
    arguments are `export_footprint_beside`'s.
    """
    mend = "free some, or register it on a larger machine"
    if mapped:
        mend += "; with `targets: [compressed-tensors]` it stays a checkpoint, read layer by layer"
    needed = size + export_footprint_beside(size, largest, mapped=mapped)
    require_memory(needed, f"registering {where}", mend)


def float_weights(folder: Path) -> int:
    """Return the bytes that a folder's safetensors take in float32; 0 where there are none.

    They are read from the headers alone.
    """
    return sum(_float_sizes(folder))


def largest_float_weight(folder: Path) -> int:
    """Return the bytes of the largest of them; 0 where there are none."""
    return max(_float_sizes(folder), default=0)


def _float_sizes(folder: Path) -> Iterator[int]:
    for path in sorted(folder.glob("*.safetensors")):
        for shape in _header(path, "shape"):
            yield 4 * math.prod(shape)


def stored_types(path: Path) -> Iterator[tuple[str, str]]:
    """Yield names of a safetensors file's tensors with their types in its words: BF16, F32, I8."""
    yield from zip(_header(path, ""), _header(path, "dtype"), strict=True)


def _header(path: Path, field: str) -> list[Any]:
    """Return a field of every tensor, or their names; a damaged header has none.

    Whoever reads the weights says so.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(
                file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size))
            )
        tensors = {name: item for name, item in header.items() if name != "__metadata__"}
        return [item[field] if field else name for name, item in tensors.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _length(tensor: onnx.TensorProto, path: Path) -> int:
    """Return the bytes of a tensor that lies in a file beside the graph."""
    folder = path.parent.resolve()
    try:
        info = ExternalDataInfo(tensor)
    except ValueError as exc:
        raise BadInput(
            f"source: {path} places weight {tensor.name} wrongly ({exc}): export the model again"
        ) from exc
    place = (folder / info.location).resolve()
    if not info.location or not place.is_relative_to(folder):
        raise BadInput(
            f"source: {path} takes weight {tensor.name} from {info.location!r}, outside the "
            "model's folder: "
            "put all files of the model into one folder"
        )
    if not place.is_file():
        raise BadInput(
            f"source: {path} takes weight {tensor.name} from {info.location!r}, which is not "
            "there: copy it"
        )
    size, start, wanted = place.stat().st_size, info.offset or 0, _stored(tensor)
    length = max(size - start, 0) if info.length is None else int(info.length)
    given = info.length is not None and tensor.data_type not in _PACKED
    if given and length != wanted and start + max(length, wanted) <= size:
        _refuse_bytes(tensor, path, length)
    if start + max(length, wanted) > size:
        raise BadInput(
            f"source: weight {tensor.name} ends at byte {start + max(length, wanted)} of "
            f"{info.location!r}, which has "
            f"{size}: the file was cut short; copy it again"
        )
    return length


def _require_whole(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse a tensor inside the graph that holds other numbers than its shape asks for."""
    if tensor.data_type in _NO_NUMBERS or uses_external_data(tensor):
        return
    if any(size < 0 for size in tensor.dims):
        raise BadInput(
            f"source: {path} gives weight {tensor.name} the shape {list(tensor.dims)}: export the "
            "model again"
        )
    if tensor.HasField("raw_data"):
        if tensor.data_type not in _PACKED and len(tensor.raw_data) != _stored(tensor):
            _refuse_bytes(tensor, path, len(tensor.raw_data))
        return
    try:
        onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as exc:
        raise BadInput(
            f"source: {path} holds weight {tensor.name} wrongly ({_first_line(exc)}): export the "
            "model again"
        ) from exc


def _refuse_bytes(tensor: onnx.TensorProto, path: Path, length: int) -> NoReturn:
    raise BadInput(
        f"source: {path} holds {length} bytes of weight {tensor.name}, whose shape "
        f"{list(tensor.dims)} asks for {_stored(tensor)}: export the model again"
    )


def _stored(tensor: onnx.TensorProto) -> int:
    """Return the bytes that the tensor's shape and type ask for, at least.

    Numbers of less than a byte count for nothing.
    """
    if tensor.data_type in _PACKED:
        return 0
    size = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return math.prod(map(int, tensor.dims)) * size


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield constants of a graph, of its nodes, and of their bodies."""
    yield from graph.initializer
    for node in graph.node:
        for item in node.attribute:
            yield from (item.t, *item.tensors)
            for body in (item.g, *item.graphs):
                yield from _tensors(body)


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
