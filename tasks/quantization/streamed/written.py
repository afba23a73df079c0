"""A checkpoint as it is written: a file a layer, whole or not there; its index comes last."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput, Unavailable
from tasks.layerwise.quantized import LayerNotes, layers_in
from tasks.models.checkpoints.stored import CONFIG
from tasks.models.language.checkpoint import INDEX
from tasks.quantization.compressed.exported import copy_beside

if TYPE_CHECKING:
    import torch

_HEADER = 8
"""Bytes of a file of safetensors that say how long its header is."""
PROGRESS = "derivation.json"
"""Says what is being made, and afterwards what was."""
PARTIAL = ".partial"


class WrittenCheckpoint:
    """The folder of a derivation, which goes on where it was ended."""

    def __init__(self, folder: Path, source: Path, layers: int, made_from: Mapping[str, Any]):
        """Begin, or go on.

        Args:
            folder: Made where it is not there.
            source: The checkpoint's folder; tokenizer and template are taken from it.
            layers: Decoder layers.
            made_from: What the result follows from, as JSON.

        Raises:
            BadInput: The folder holds something else, or was made from something else.
            Unavailable: It cannot be written.
        """
        self.folder, self._layers = folder, layers
        with self._writing():
            self._begin(source, made_from)

    def _begin(self, source: Path, made_from: Mapping[str, Any]) -> None:
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        begun = folder / PROGRESS
        asked = json.loads(json.dumps(made_from))
        if begun.is_file():
            if json.loads(begun.read_text(encoding="utf-8")).get("made_from") != asked:
                raise BadInput(
                    f"{folder} holds what another recipe, calibration set or checkpoint made: name "
                    "another folder, or remove it"
                )
        elif any(path.suffix != PARTIAL for path in folder.iterdir()):  # what a kill left is none
            raise BadInput(f"{folder} is not empty: name a new folder")
        else:
            self._put(PROGRESS, json.dumps({"made_from": asked}).encode())
        copy_beside(source, folder)

    @property
    def size(self) -> int:
        """Bytes of the weights' files."""
        return sum(path.stat().st_size for path in self.folder.glob("model-*.safetensors"))

    @property
    def bits(self) -> float:
        """Bits of a quantized weight on average, by the bytes of values and scales in its files."""
        found = [_weights_in(path) for path in self.folder.glob("model-*.safetensors")]
        return 8 * sum(size for size, _ in found) / max(sum(count for _, count in found), 1)

    def file_of(self, layer: int) -> Path:
        """Return the file of a layer; that after the last holds what is outside of layers."""
        return self.folder / f"model-{layer + 1:05d}-of-{self._layers + 1:05d}.safetensors"

    def read(self, layer: int) -> dict[str, torch.Tensor] | None:
        """Return what was written of a layer; None where it was not."""
        from safetensors.torch import load_file

        path = self.file_of(layer)
        return load_file(path) if path.is_file() else None

    def write(self, layer: int, tensors: Mapping[str, torch.Tensor], notes: LayerNotes) -> None:
        """Write a layer's file; it is there when all of it is.

        Raises:
            Unavailable: The disk is full; what was written stays, and the next call goes on there.
        """
        from safetensors.torch import save_file

        path = self.file_of(layer)
        partial = path.with_suffix(PARTIAL)
        try:
            save_file(
                {name: value.cpu().contiguous() for name, value in tensors.items()},
                partial,
                metadata={"format": "pt", "notes": json.dumps(asdict(notes))},
            )
            partial.replace(path)
        except Exception as exc:
            partial.unlink(missing_ok=True)
            if isinstance(exc, OSError) or "os error 28" in str(exc).lower():
                raise Unavailable(
                    f"{path} cannot be written ({exc}): free some space, and run the same command "
                    f"again; it goes on with layer {layer + 1}"
                ) from exc
            raise

    def notes(self, layer: int) -> LayerNotes:
        """Return what was noted of a layer when it was written."""
        from safetensors import safe_open

        with safe_open(self.file_of(layer), framework="pt") as opened:
            found = json.loads((opened.metadata() or {}).get("notes", "{}"))
        return LayerNotes(**{name: tuple(value) for name, value in found.items()})

    def finish(self, quantization: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        """Write index, report and configuration, in this order: a folder with that is whole.

        Raises:
            Unavailable: The disk is full; what was written stays.
        """
        with self._writing():
            self._finish(quantization, report)

    def _finish(self, quantization: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        from safetensors import safe_open

        placed, total = dict[str, str](), 0
        for path in sorted(self.folder.glob("model-*.safetensors")):
            total += path.stat().st_size
            with safe_open(path, framework="pt") as opened:
                placed |= dict.fromkeys(opened.keys(), path.name)
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        self._put(INDEX, json.dumps(index, indent=1).encode())
        begun = json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))
        self._put(PROGRESS, json.dumps(begun | dict(report), indent=1).encode())
        config = begun["made_from"]["checkpoint"][0]
        whole = config | {"quantization_config": dict(quantization)}
        self._put(CONFIG, json.dumps(whole, indent=2).encode())

    def _put(self, name: str, data: bytes) -> None:
        partial = self.folder / f"{name}{PARTIAL}"
        partial.write_bytes(data)
        partial.replace(self.folder / name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise Unavailable(
                f"{self.folder} cannot be written ({exc.strerror}): free some space, and run the "
                "same command again"
            ) from exc


def _weights_in(path: Path) -> tuple[int, int]:
    """Return bytes of values and scales of a file's quantized linear layers, and their weights."""
    from safetensors import safe_open

    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(_HEADER), "little")))
    size = count = 0
    with safe_open(path, framework="pt") as opened:
        for name in layers_in(header):
            packed = f"{name}.weight_packed" in header
            values = f"{name}.weight_packed" if packed else f"{name}.weight"
            spans = [header[item]["data_offsets"] for item in (values, f"{name}.weight_scale")]
            size += sum(end - begin for begin, end in spans)
            shape = opened.get_tensor(f"{name}.weight_shape").tolist() if packed else None
            count += math.prod(shape or header[values]["shape"])
    return size, count
