"""How one input, text, tensor or record of tensors, is written in Parquet.

Traffic, samples and golden sets share these four columns.
"""

from collections.abc import Mapping
from hashlib import sha256
from math import prod

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from infra.errors import BadInput
from tasks.records import Payload, Record

PAYLOAD_FIELDS = (
    pa.field("text", pa.string()),
    pa.field("tensor", pa.binary()),  # little-endian, C order; of a record, a safetensors document
    pa.field("shape", pa.list_(pa.int32())),  # null of a record, whose tensors tell theirs
    pa.field("dtype", pa.string()),  # "float32", or "safetensors" of a record
)
RECORD = "safetensors"
"""The dtype of a record."""


def encode(payload: Payload) -> dict[str, object]:
    """Return the four columns of one payload."""
    if isinstance(payload, str):
        return {"text": payload, "tensor": None, "shape": None, "dtype": None}
    if isinstance(payload, Mapping):
        return {"text": None, "tensor": dump_record(payload), "shape": None, "dtype": RECORD}
    tensor = np.asarray(payload, dtype="<f4", order="C")
    return {
        "text": None,
        "tensor": tensor.tobytes(),
        "shape": list(tensor.shape),
        "dtype": "float32",
    }


def decode(row: Mapping[str, object]) -> Payload:
    """Return the payload of one row.

    Raises `BadInput` when it is neither a text, a well-formed float32 tensor nor a record.
    """
    text, raw, shape, dtype = (row.get(field.name) for field in PAYLOAD_FIELDS)
    if isinstance(text, str) and raw is None:
        return text
    if text is None and isinstance(raw, bytes) and dtype == RECORD:
        return parse_record(raw)
    if text is not None or not isinstance(raw, bytes) or not isinstance(shape, list):
        raise BadInput(
            "the input is neither a text nor a tensor: "
            "fill `text`, or `tensor` with `shape` and `dtype`"
        )
    if dtype != "float32":
        raise BadInput(f"the tensor's dtype is {dtype!r}: 'float32' and '{RECORD}' are allowed")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise BadInput(f"the tensor's shape is {shape}: only sizes of 0 and more are allowed")
    if len(raw) != 4 * prod(shape):
        raise BadInput(
            f"the tensor has {len(raw)} bytes, but shape {shape} of float32 needs {4 * prod(shape)}"
        )
    return np.frombuffer(raw, dtype="<f4").reshape(shape).astype(np.float32)


def dump_record(record: Record) -> bytes:
    """Return the safetensors document of a record; equal records give equal bytes."""
    return bytes(
        safetensors.save({name: np.array(record[name], order="C") for name in sorted(record)})
    )


def parse_record(raw: bytes) -> Record:
    """Read what `dump_record` wrote; raises `BadInput`."""
    try:
        tensors: Record = safetensors.load(raw)
    except (SafetensorError, KeyError, TypeError, ValueError) as exc:
        raise BadInput(f"the input's tensors are no safetensors document: {exc}") from exc
    if not tensors:
        raise BadInput("the input's safetensors document holds no tensor")
    return tensors


def all_finite(payload: Payload) -> bool:
    """Return whether no number of a tensor or record is NaN or infinite."""
    return all(
        bool(np.isfinite(tensor).all())
        for tensor in tensors_of(payload)
        if tensor.dtype.kind == "f"
    )


def describe(payload: Payload) -> str:
    """Say in words what a payload is, without its content."""
    if isinstance(payload, str):
        return "a text"
    if isinstance(payload, Mapping):
        listed = (f"{name} {list(payload[name].shape)}" for name in sorted(payload))
        return f"tensors {', '.join(listed)}"
    return f"shape {payload.shape}"


def is_file(tensor: NDArray[np.generic]) -> bool:
    """Return whether a tensor of a record is a file's bytes, whose mean says nothing."""
    return tensor.dtype == np.uint8 and tensor.ndim == 1


def tensors_of(payload: Payload) -> tuple[NDArray[np.generic], ...]:
    """Return every tensor of a payload, in the order of their names; a text has none."""
    if isinstance(payload, str):
        return ()
    if isinstance(payload, Mapping):
        return tuple(payload[name] for name in sorted(payload))
    return (payload,)


def fingerprint(payload: Payload) -> str:
    """Return the SHA-256 of the content alone, in hexadecimal: equal payloads are duplicates."""
    if isinstance(payload, str):
        return sha256(b"text:" + payload.encode()).hexdigest()
    if isinstance(payload, Mapping):
        return sha256(b"record:" + dump_record(payload)).hexdigest()
    tensor = np.asarray(payload, dtype="<f4", order="C")
    return sha256(f"tensor:{tensor.shape}:".encode() + tensor.tobytes()).hexdigest()
