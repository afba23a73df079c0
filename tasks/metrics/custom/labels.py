"""What a label says: words, a number, JSON, or a file that was put into it as a data URI.

A data URI holds an image or an array: `data:image/png;base64,…`, `data:application/x-npy;base64,…`.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

NPY = "data:application/x-npy;base64,"
PNG = "data:image/png;base64,"


def array_label(array: NDArray[np.generic]) -> str:
    """Return an array as a label."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return NPY + base64.b64encode(buffer.getvalue()).decode()


def image_label(data: bytes) -> str:
    """Return an image file's bytes as a label, whatever its format."""
    return PNG + base64.b64encode(data).decode()


def read_array(label: str) -> NDArray[np.float64]:
    """Return the numbers of a label: a number, a JSON list, an image's pixels or an array.

    Raises:
        BadInput: when it holds none.
    """
    if label.startswith("data:"):
        return _read_uri(label)
    try:
        return np.asarray(json.loads(label), np.float64)
    except (ValueError, TypeError) as exc:
        raise BadInput(f"the label {label[:40]!r} holds no numbers") from exc


def read_fields(label: str) -> Mapping[str, object]:
    """Return the JSON object of a label; raises `BadInput` when it is none."""
    try:
        fields = json.loads(label)
    except ValueError as exc:
        raise BadInput(f"the label {label[:40]!r} is no JSON object") from exc
    if not isinstance(fields, dict):
        raise BadInput(f"the label {label[:40]!r} is no JSON object")
    return fields


def _read_uri(label: str) -> NDArray[np.float64]:
    head, _, packed = label.partition(",")
    try:
        data = base64.b64decode(packed, validate=True)
        if head.startswith("data:image/"):
            from PIL import Image

            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(image, np.float64)
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float64)
    except (binascii.Error, ValueError, OSError) as exc:
        raise BadInput(f"the label {head[:40]!r} holds no image or array: {exc}") from exc
