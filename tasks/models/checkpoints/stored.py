"""A checkpoint's tensors, read one by one as they are stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from infra.errors import BadInput
from tasks.models.language.checkpoint import INDEX, tensor_files

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
_READ = frozenset({"BF16", "F16", "F32"})


class CheckpointTensors(Protocol):
    """A checkpoint's tensors, wherever they are kept."""

    @property
    def folder(self) -> Path:
        """Where its configuration and tokenizer lie as files."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Every tensor's name."""
        ...

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        ...

    @property
    def identity(self) -> Sequence[Any]:
        """What changes when the checkpoint does, as JSON; its configuration first."""
        ...

    def __contains__(self, name: object) -> bool: ...

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor in host memory, in its own type; raises as `read`."""
        ...

    def read(
        self, names: Sequence[str], into: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Return tensors by name, each as `into` makes it.

        Raises:
            BadInput: The checkpoint has no such tensor.
        """
        ...


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
        self._files = tensor_files(folder)

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
        """What changes when the checkpoint does: its configuration, its files' sizes and times."""
        stats = {name: (self.folder / name).stat() for name in sorted({*self._files.values()})}
        files = [[name, found.st_size, found.st_mtime_ns] for name, found in stats.items()]
        return [json.loads((self.folder / CONFIG).read_text(encoding="utf-8")), files]

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
            wanted = [name for name in names if self._files[name] == file]
            with safe_open(self.folder / file, framework="pt") as opened:
                absent = sorted({*wanted} - {*opened.keys()})
                if absent:
                    raise BadInput(
                        f"{file} lacks {absent[0]}, which {INDEX} says is in it: copy both again"
                    )
                for name in wanted:
                    kind = opened.get_slice(name).get_dtype()
                    if kind not in _READ:
                        raise BadInput(
                            f"{file} holds {name} in {kind}: bring the weights in float32, float16 "
                            "or bfloat16, as they were before they were quantized"
                        )
                    tensor = opened.get_tensor(name)
                    found[name] = tensor if into is None else into(tensor)
        return found


def every_tensor(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a folder's tensors by name, of whatever type they are stored in.

    Raises:
        BadInput: There are none, or a shard is missing.
    """
    from safetensors import safe_open

    files = tensor_files(folder)
    for file in sorted({*files.values()}):
        with safe_open(folder / file, framework="pt") as opened:
            for name in [*opened.keys()]:
                yield name, opened.get_tensor(name)
