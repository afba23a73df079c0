"""One file as a payload or a label; what nobody could read later is refused here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.metrics.custom.labels import array_label, image_label
from tasks.payloads import all_finite
from tasks.preprocess.decoding import decode_audio, decode_image
from tasks.records import Payload, Record

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
_NUMBERS = "biuf"


def read_payload(folder: Path, name: str) -> Payload:
    """Return a file as a request carries it.

    An image or WAV file stays the bytes that it is, and is decoded once to see that it can be.
    `.npy` is a tensor, `.npz` tensors by the graph's names, `.txt` a text.

    Raises:
        BadInput: for what cannot be read.
    """
    path = _inside(folder, name)
    data, kind = _bytes(path), path.suffix.lower()
    if kind in IMAGES:
        decode_image(data, "RGB")
        return {"image": np.frombuffer(data, np.uint8)}
    if kind == ".wav":
        if not decode_audio(data)[0].size:
            raise BadInput("the sound is empty")
        return {"audio": np.frombuffer(data, np.uint8)}
    if kind in (".npy", ".npz"):
        return _tensors(path)
    if kind == ".txt":
        return _text(data)
    raise BadInput("this is no image, .wav, .npy, .npz or .txt file: convert it")


def read_label(folder: Path, name: str) -> str:
    """Return a file as a label: an image or array as a data URI, anything else as its text.

    Raises:
        BadInput: for what cannot be read.
    """
    path = _inside(folder, name)
    data, kind = _bytes(path), path.suffix.lower()
    if kind in IMAGES:
        decode_image(data, "L")
        return image_label(data)
    if kind == ".npy":
        return array_label(_array(path))
    return _text(data)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BadInput(f"the path leads out of {folder}: name files below it")
    return path


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise BadInput(f"it cannot be read: {exc.strerror}") from exc
    if not data:
        raise BadInput("the file is empty")
    return data


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as exc:
        raise BadInput(f"the text is not in UTF-8: {exc.reason} at byte {exc.start}") from exc
    if not text:
        raise BadInput("the text is empty")
    return text


def _tensors(path: Path) -> Payload:
    if path.suffix.lower() == ".npy":
        array = _array(path)
        tensor = np.asarray(array, np.float32)
        if array.dtype.kind in "iu" and not np.array_equal(tensor.astype(array.dtype), array):
            raise BadInput(f"its {array.dtype} numbers do not fit float32: save them as .npz")
        payload: Payload = tensor
    else:
        payload = _record(path)
    if not all_finite(payload):
        raise BadInput("it holds NaN or infinity")
    return payload


def _record(path: Path) -> Record:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            record = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError) as exc:
        raise BadInput(f"it is no .npz file of arrays: {' '.join(str(exc).split())}") from exc
    for name, array in record.items():
        if array.dtype.kind not in _NUMBERS:
            raise BadInput(f"its array {name} holds {array.dtype}, not numbers")
    if not record:
        raise BadInput("it holds no array")
    return record


def _array(path: Path) -> NDArray[np.generic]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as exc:
        raise BadInput(f"it is no .npy file of an array: {' '.join(str(exc).split())}") from exc
    if array.dtype.kind not in _NUMBERS:
        raise BadInput(f"its array holds {array.dtype}, not numbers")
    return np.asarray(array)
