"""A checkpoint's tensors, read one by one as they are stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput

if TYPE_CHECKING:
    import torch

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
_READ = frozenset({"BF16", "F16", "F32"})


class StoredCheckpoint:
    """The safetensors of a Hugging Face folder; nothing of them is kept in memory."""

    def __init__(self, folder: Path) -> None:
        """Look at the names alone.

        Raises:
            BadInput: There is no configuration, no safetensors, or a shard is missing.
        """
        self.folder = folder
        if not (folder / CONFIG).is_file():
            raise BadInput(f"{folder} has no {CONFIG}: name a folder as Hugging Face stores it")
        self._files = self._placed()

    def __contains__(self, name: object) -> bool:
        return name in self._files

    @property
    def names(self) -> Sequence[str]:
        """Every tensor's name."""
        return tuple(self._files)

    @cached_property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum((self.folder / name).stat().st_size for name in {*self._files.values()})

    @property
    def identity(self) -> Sequence[Any]:
        """What changes when the checkpoint does: its configuration, and its files' sizes."""
        files = sorted({*self._files.values()})
        sizes = [[name, (self.folder / name).stat().st_size] for name in files]
        return [json.loads((self.folder / CONFIG).read_text(encoding="utf-8")), sizes]

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor in host memory, in its own type.

        Raises:
            BadInput: The checkpoint has no such tensor, or it is quantized already.
        """
        return self.read([name])[name]

    def read(
        self, names: Sequence[str], into: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Return tensors by name, each as `into` makes it.

        Raises:
            BadInput: As `tensor`.
        """
        from safetensors import safe_open

        missing = [name for name in names if name not in self._files]
        if missing:
            raise BadInput(
                f"the checkpoint lacks {', '.join(missing[:3])}: its weights are of another model "
                f"than {CONFIG} says"
            )
        found = {}
        for file in sorted({self._files[name] for name in names}):
            with safe_open(self.folder / file, framework="pt") as opened:
                for name in (item for item in names if self._files[item] == file):
                    kind = opened.get_slice(name).get_dtype()
                    if kind not in _READ:
                        raise BadInput(
                            f"{file} holds {name} in {kind}: bring the weights in float32, float16 "
                            "or bfloat16, as they were before they were quantized"
                        )
                    tensor = opened.get_tensor(name)
                    found[name] = tensor if into is None else into(tensor)
        return found

    def _placed(self) -> dict[str, str]:
        """Return the file of every tensor."""
        from safetensors import SafetensorError, safe_open

        index = self.folder / INDEX
        if index.is_file():
            try:
                placed = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            except (ValueError, KeyError, TypeError) as exc:
                raise BadInput(f"{INDEX} cannot be read ({exc}): copy it again") from exc
            missing = sorted({f for f in placed.values() if not (self.folder / f).is_file()})
            if missing:
                raise BadInput(
                    f"{INDEX} names {missing[0]}, which is not there ({len(missing)} shards are "
                    "missing): copy them"
                )
            return placed
        placed = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as opened:
                    placed |= dict.fromkeys(opened.keys(), path.name)
            except (SafetensorError, OSError) as exc:
                raise BadInput(f"{path.name} cannot be read ({exc}): copy it again") from exc
        if not placed:
            raise BadInput(f"{self.folder} has no *.safetensors: name a folder that has")
        return placed
