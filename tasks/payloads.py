"""How one input, text or tensor, is written in Parquet.

Traffic, samples and golden sets share these four columns.
"""

from collections.abc import Mapping
from hashlib import sha256
from math import prod

import numpy as np
import pyarrow as pa

from infra.errors import BadInput
from tasks.records import Payload

PAYLOAD_FIELDS = (
    pa.field("text", pa.string()),
    pa.field("tensor", pa.binary()),  # little-endian, C order
    pa.field("shape", pa.list_(pa.int32())),
    pa.field("dtype", pa.string()),  # "float32"
)


def encode(payload: Payload) -> dict[str, object]:
    """Return the four columns of one payload."""
    if isinstance(payload, str):
        return {"text": payload, "tensor": None, "shape": None, "dtype": None}
    tensor = np.asarray(payload, dtype="<f4", order="C")
    return {
        "text": None,
        "tensor": tensor.tobytes(),
        "shape": list(tensor.shape),
        "dtype": "float32",
    }


def decode(row: Mapping[str, object]) -> Payload:
    """Return the payload of one row.

    Raises `BadInput` when it is neither a text nor a well-formed float32 tensor.
    """
    text, raw, shape, dtype = (row.get(field.name) for field in PAYLOAD_FIELDS)
    if isinstance(text, str) and raw is None:
        return text
    if text is not None or not isinstance(raw, bytes) or not isinstance(shape, list):
        raise BadInput(
            "the input is neither a text nor a tensor: "
            "fill `text`, or `tensor` with `shape` and `dtype`"
        )
    if dtype != "float32":
        raise BadInput(f"the tensor's dtype is {dtype!r}: only 'float32' is allowed")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise BadInput(f"the tensor's shape is {shape}: only sizes of 0 and more are allowed")
    if len(raw) != 4 * prod(shape):
        raise BadInput(
            f"the tensor has {len(raw)} bytes, but shape {shape} of float32 needs {4 * prod(shape)}"
        )
    return np.frombuffer(raw, dtype="<f4").reshape(shape).astype(np.float32)


def fingerprint(payload: Payload) -> str:
    """Return the SHA-256 of the content alone, in hexadecimal: equal payloads are duplicates."""
    if isinstance(payload, str):
        return sha256(b"text:" + payload.encode()).hexdigest()
    tensor = np.asarray(payload, dtype="<f4", order="C")
    return sha256(f"tensor:{tensor.shape}:".encode() + tensor.tobytes()).hexdigest()
