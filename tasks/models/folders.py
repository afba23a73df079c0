"""Golden sets and calibration pools from a folder of files and a table of labels.

The table is CSV with a header, or JSON Lines. A row has `file`, relative to the folder, or `text`;
optional are `id`, `domain`, `language`, `label` and `label_file`, whose content becomes the label.
An image or WAV file is kept as its bytes, for a spec with `preprocess`; `.npy` and `.npz` files are
tensors, `.txt` files texts.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra.errors import BadInput
from infra.identifiers import RequestId
from tasks.metrics.custom.labels import array_label, image_label
from tasks.models.corpus import EPOCH, write_corpus
from tasks.models.golden import write_golden
from tasks.records import UNKNOWN, GoldenCase, Payload, Request

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
COLUMNS = ("id", "file", "text", "domain", "language", "label", "label_file")


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One row of the table, read."""

    name: str
    payload: Payload
    domain: str
    language: str
    label: str | None


def read_folder(folder: Path, labels: Path) -> tuple[LabelledFile, ...]:
    """Read every row of the table with its file.

    Raises:
        BadInput: naming the row, for a file that cannot be read, an unknown column, or no row.
    """
    rows = _rows(labels)
    if not rows:
        raise BadInput(f"{labels} has no rows: one a file is needed")
    return tuple(
        _read(row, folder, f"{labels}, row {number}") for number, row in enumerate(rows, 1)
    )


def golden_of(files: Sequence[LabelledFile]) -> bytes:
    """Return the golden set's Parquet file of these."""
    return write_golden(
        [
            GoldenCase(item.name, item.payload, item.domain, item.language, label=item.label)
            for item in files
        ]
    )


def pool_of(files: Sequence[LabelledFile]) -> bytes:
    """Return the calibration pool's Parquet file of these."""
    return write_corpus(
        [
            Request(
                request_id=RequestId(item.name),
                time=EPOCH,
                tenant="corpus",
                domain=item.domain,
                language=item.language,
                payload=item.payload,
                label=item.label,
            )
            for item in files
        ]
    )


def _rows(labels: Path) -> list[Mapping[str, object]]:
    try:
        text = labels.read_text(encoding="utf-8-sig")
        if labels.suffix in (".jsonl", ".ndjson"):
            parsed = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            parsed = list(csv.DictReader(text.splitlines()))
    except (OSError, ValueError, csv.Error) as exc:
        raise BadInput(
            f"{labels} cannot be read ({exc}): CSV with a header, or JSON Lines in UTF-8 is needed"
        ) from exc
    for number, row in enumerate(parsed, 1):
        strange = [str(name) for name in row if name not in COLUMNS] if row else []
        if not isinstance(row, Mapping) or strange:
            raise BadInput(
                f"{labels}, row {number}: {', '.join(strange) or row!r} is unknown; allowed are "
                f"{', '.join(COLUMNS)}"
            )
    return parsed


def _read(row: Mapping[str, object], folder: Path, where: str) -> LabelledFile:
    file, text = row.get("file"), row.get("text")
    if bool(file) == bool(text):
        raise BadInput(f"{where}: give file or text")
    label_file, label = row.get("label_file"), row.get("label")
    if label_file:
        label = _label(folder / str(label_file), where)
    elif label is not None and not isinstance(label, str):
        label = json.dumps(label)
    return LabelledFile(
        name=str(row.get("id") or file or where.rpartition(" ")[2]),
        payload=str(text) if text else _payload(folder / str(file), where),
        domain=str(row.get("domain") or UNKNOWN),
        language=str(row.get("language") or UNKNOWN),
        label=str(label) if label else None,
    )


def _payload(path: Path, where: str) -> Payload:
    data, kind = _bytes(path, where), path.suffix.lower()
    if kind in IMAGES:
        return {"image": np.frombuffer(data, np.uint8)}
    if kind == ".wav":
        return {"audio": np.frombuffer(data, np.uint8)}
    try:
        if kind == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), np.float32)
        if kind == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        if kind == ".txt":
            return data.decode()
    except (ValueError, OSError) as exc:
        raise BadInput(f"{where}: {path} cannot be read: {exc}") from exc
    raise BadInput(f"{where}: {path.name} is no image, .wav, .npy, .npz or .txt file: convert it")


def _label(path: Path, where: str) -> str:
    data, kind = _bytes(path, where), path.suffix.lower()
    if kind in IMAGES:
        return image_label(data)
    try:
        if kind == ".npy":
            return array_label(np.load(path, allow_pickle=False))
        return data.decode().strip()
    except (ValueError, OSError) as exc:
        raise BadInput(f"{where}: the label {path} cannot be read: {exc}") from exc


def _bytes(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BadInput(f"{where}: {path} cannot be read: {exc.strerror}") from exc
