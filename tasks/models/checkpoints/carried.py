"""A checkpoint of the workspace, read as a folder's is (`tasks.models.checkpoints.stored`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from infra.canonical import sha256
from infra.errors import BadInput, Unavailable
from infra.settings import settings
from infra.weights.carried import CONFIG, tensors_in
from tasks.models.checkpoints.index_graph import bytes_of, files_in, size_of, tensor_of

if TYPE_CHECKING:
    import torch

_FILE_BYTES = 4 << 30
"""Of a file of weights that is written for others."""


class CarriedCheckpoint:
    """The tensors that an index graph names; each is mapped from its file when it is read."""

    def __init__(self, index: onnx.ModelProto) -> None:
        """Look at the names alone."""
        self.index = index
        self._tensors = {item.name: item for item in tensors_in(index)}

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    @property
    def names(self) -> Sequence[str]:
        """Every tensor's name."""
        return tuple(self._tensors)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape, as it is stored."""
        return {name: tuple(item.dims) for name, item in self._tensors.items()}

    def bytes_of(self, name: str) -> int:
        """Return the bytes of a tensor."""
        return bytes_of(self._tensors[name])

    @cached_property
    def size(self) -> int:
        """Bytes of all its tensors."""
        return size_of(self.index)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        found: dict[str, Any] = json.loads(files_in(self.index)[CONFIG])
        return found

    @property
    def identity(self) -> Sequence[Any]:
        """What changes when the checkpoint does: its configuration, and its index's digest."""
        return [self.config, sha256(self.index.SerializeToString(deterministic=True))]

    @cached_property
    def folder(self) -> Path:
        """Its configuration and tokenizer as files, without weights, for libraries that want them.

        Raises:
            Unavailable: They cannot be written.
        """
        files = files_in(self.index)
        name = sha256(b"".join(name.encode() + files[name] for name in sorted(files)))[:16]
        folder = settings().root / "cache" / "checkpoints" / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file, data in files.items():
                if not (folder / file).is_file() or (folder / file).read_bytes() != data:
                    partial = folder / f".{file}.partial"
                    partial.write_bytes(data)
                    partial.replace(folder / file)
        except OSError as exc:
            raise Unavailable(
                f"{folder} cannot be written ({exc.strerror}): free some space, then run again"
            ) from exc
        return folder

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor, mapped from its file; raises as `read`."""
        return self.read([name])[name]

    def read(
        self, names: Sequence[str], into: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Return tensors by name, each as `into` makes it.

        Raises:
            BadInput: The checkpoint has no such tensor.
            NotFound: A file of the workspace's weights is gone.
            Tampered: One differs from its digest.
        """
        missing = [name for name in names if name not in self._tensors]
        if missing:
            raise BadInput(
                f"the checkpoint lacks {', '.join(missing[:3])}: its weights are of another model "
                f"than {CONFIG} says"
            )
        found = {}
        for name in names:
            tensor = tensor_of(self._tensors[name])
            found[name] = tensor if into is None else into(tensor)
        return found

    def shares(self, other: CarriedCheckpoint, name: str) -> bool:
        """Return whether both have the same tensor under a name."""
        mine, theirs = self._tensors.get(name), other._tensors.get(name)
        return mine is not None and mine == theirs

    def write_folder(self, folder: Path) -> None:
        """Write the checkpoint as Hugging Face stores it; the configuration comes last.

        Raises:
            Unavailable: The disk is full, or the folder cannot be written.
        """
        from safetensors.torch import save_file

        from tasks.models.language.checkpoint import INDEX

        files = files_in(self.index)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            placed: dict[str, str] = {}
            parts = self._parts()
            for place, names in enumerate(parts):
                file = f"model-{place + 1:05d}-of-{len(parts):05d}.safetensors"
                save_file(self.read(names), folder / file, metadata={"format": "pt"})
                placed |= dict.fromkeys(names, file)
            index = {"metadata": {"total_size": self.size}, "weight_map": placed}
            (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
            for name in sorted(files, key=lambda name: name == CONFIG):
                (folder / name).write_bytes(files[name])
        except Exception as exc:
            if isinstance(exc, OSError) or "os error 28" in str(exc).lower():
                raise Unavailable(
                    f"{folder} cannot be written ({exc}): free some space, and name a new folder"
                ) from exc
            raise

    def _parts(self) -> list[list[str]]:
        """Return the tensors' names, as many to a file as make `_FILE_BYTES`."""
        parts: list[list[str]] = [[]]
        size = 0
        for name, item in self._tensors.items():
            bytes_ = bytes_of(item)
            if parts[-1] and size + bytes_ > _FILE_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(name)
            size += bytes_
        return parts
