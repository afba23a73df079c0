"""The tensor datatypes of the Open Inference Protocol: their bytes, their JSON, their arrays.

Source: https://github.com/kserve/open-inference-protocol, and Triton's binary data extension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

BYTES, BF16 = "BYTES", "BF16"
MOST_DIMENSIONS = 8
"""Of a tensor."""
MOST_TEXTS, MOST_LISTED = 100_000, 2**22
"""Texts of a tensor, and numbers of one in JSON: others wait while they are read one by one."""
LITTLE_ENDIAN: Mapping[str, str] = {
    "BOOL": "?",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    BF16: "<u2",  # the upper half of a float32
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
}
"""Datatype -> NumPy's dtype of its bytes; texts (BYTES) have a length before each element."""
_NAMES = {np.dtype(code): name for name, code in LITTLE_ENDIAN.items() if name != BF16}


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of a dtype; texts are BYTES."""
    return _NAMES.get(dtype, BYTES)


def from_bytes(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> NDArray[Any]:
    """Return a tensor of raw bytes; BF16 becomes float32, BYTES an array of texts.

    Raises:
        BadInput: for an unknown datatype, and for bytes that the shape does not need.
    """
    if datatype == BYTES:
        return _shaped(name, np.asarray(_texts(name, raw, prod(shape)), dtype=object), shape)
    dtype = np.dtype(_code(name, datatype))
    needed = prod(shape) * dtype.itemsize
    if len(raw) != needed:
        raise BadInput(
            f"the input {name} has {len(raw)} bytes, but shape {list(shape)} of {datatype} needs "
            f"{needed}"
        )
    values = _shaped(name, np.frombuffer(raw, dtype), shape)
    return (values.astype("<u4") << 16).view("<f4") if datatype == BF16 else values


def from_json(name: str, datatype: str, shape: Sequence[int], data: object) -> NDArray[Any]:
    """Return a tensor of JSON values, nested as the shape says or flat.

    Args:
        name: Of the input.
        datatype: Its datatype.
        shape: Its shape.
        data: Lists in lists, a single value, or any sequence that NumPy reads as one.

    Raises:
        BadInput: for values that the datatype or the shape does not hold, and for too many.
    """
    _require_few(name, data, MOST_TEXTS if datatype == BYTES else MOST_LISTED)
    if datatype == BYTES:
        texts = _leaves(name, data)
        if not all(isinstance(text, str) for text in texts):
            raise BadInput(f"the input {name} is of {BYTES}, and not all of its elements are texts")
        return _shaped(name, np.asarray(texts, dtype=object), shape)
    code = _code(name, datatype)
    wanted = np.dtype("<f4" if datatype == BF16 else code)
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError):
        raise BadInput(f"the input {name} is ragged: its lists differ in length") from None
    if not values.size:
        values = values.astype(wanted)
    if values.dtype.kind not in "biuf" or (values.dtype.kind == "b") != (wanted.kind == "b"):
        raise BadInput(f"the input {name} is of {datatype}, and its data are not")
    with np.errstate(over="ignore", invalid="ignore"):
        typed = values.astype(wanted)
    if not _holds(typed, values):
        raise BadInput(f"the input {name} holds numbers that {datatype} has not")
    return _shaped(name, typed, shape)


def to_bytes(values: NDArray[Any]) -> bytes:
    """Return a tensor's bytes, little-endian and in C order."""
    if values.dtype.kind in "OUS":
        elements = [_encoded(item) for item in values.ravel().tolist()]
        return b"".join(len(item).to_bytes(4, "little") + item for item in elements)
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).tobytes()


def _code(name: str, datatype: str) -> str:
    code = LITTLE_ENDIAN.get(datatype)
    if code is None:
        raise BadInput(
            f"the input {name} is of the datatype {datatype}: known are {BYTES}, "
            f"{', '.join(LITTLE_ENDIAN)}"
        )
    return code


def _shaped(name: str, values: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    if values.size != prod(shape):
        raise BadInput(
            f"the input {name} has {values.size} elements, but shape {list(shape)} needs "
            f"{prod(shape)}"
        )
    try:
        return values.reshape(shape)
    except ValueError:  # of no elements, and sizes whose product NumPy cannot count
        raise BadInput(f"the input {name} has shape {list(shape)}, which is too large") from None


def _holds(typed: NDArray[Any], values: NDArray[Any]) -> bool:
    """Return whether whole numbers are as they were given, and no finite number became infinite."""
    if typed.dtype.kind in "iu":
        return np.array_equal(typed, values)
    return typed.dtype.kind != "f" or bool((np.isfinite(typed) | ~np.isfinite(values)).all())


def _leaves(name: str, data: object) -> list[object]:
    """Return the elements of lists in lists, of which each level is a dimension."""
    leaves = [data]
    for _ in range(MOST_DIMENSIONS + 1):
        if not any(isinstance(item, list) for item in leaves):
            return leaves
        leaves = [leaf for item in leaves for leaf in (item if isinstance(item, list) else [item])]
    raise BadInput(f"the input {name} has more than {MOST_DIMENSIONS} lists in each other")


def _require_few(name: str, data: object, most: int) -> None:
    """Raise `BadInput` for lists in lists of more elements; their own are not looked at."""
    level = [data]
    while level and isinstance(level[0], list):
        lists = [item for item in level if isinstance(item, list)]
        if sum(map(len, lists)) > most:
            raise BadInput(
                f"the input {name} has more than {most} elements in JSON: send fewer, or numbers "
                "as bytes behind it"
            )
        inner = next((item[0] for item in lists if item), None)
        level = list(chain.from_iterable(lists)) if isinstance(inner, list) else []


def _texts(name: str, raw: bytes, most: int) -> list[str]:
    """Return the elements of a BYTES tensor: each its length in four bytes, then itself."""
    if most > MOST_TEXTS:
        raise BadInput(f"the input {name} has {most} texts: {MOST_TEXTS} are read at most")
    texts: list[str] = []
    place = 0
    while place < len(raw):
        if len(texts) == most:
            raise BadInput(f"the input {name} has more than the {most} texts of its shape")
        size = int.from_bytes(raw[place : place + 4], "little")
        element = raw[place + 4 : place + 4 + size]
        if place + 4 > len(raw) or len(element) != size:
            raise BadInput(f"the input {name} breaks off within a text of {size} bytes")
        try:
            texts.append(element.decode())
        except UnicodeDecodeError:
            raise BadInput(f"the input {name} holds bytes that are no UTF-8 text") from None
        place += 4 + size
    return texts


def _encoded(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()
