"""A checkpoint's folder, taken into the workspace when its model is registered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from infra.errors import BadInput
from infra.processes.memory import return_freed
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.models.checkpoints.decoder import StreamedDecoder
from tasks.models.checkpoints.index_graph import index_of
from tasks.models.checkpoints.stored import CONFIG, StoredCheckpoint
from tasks.models.language.inputs import LanguageInputs, padded

if TYPE_CHECKING:
    import torch

BESIDE = (
    "tokenizer",
    "special_tokens",
    "chat_template",
    "generation_config",
    "vocab",
    "merges",
)
"""How files of a checkpoint begin that are taken as they are."""


def files_beside(folder: Path) -> list[Path]:
    """Return a checkpoint's tokenizer, chat template and settings of generation."""
    return [
        path for path in sorted(folder.iterdir()) if path.is_file() and path.name.startswith(BESIDE)
    ]


def taken_in(folder: Path) -> onnx.ModelProto:
    """Write a folder's tensors into the workspace's weights, and return their index.

    Raises:
        BadInput: It is no folder as Hugging Face stores it, a shard is missing, or a tensor is
            quantized already.
        Unavailable: The disk cannot hold them.
    """
    if not folder.is_dir():
        raise BadInput(f"source: {folder} is no folder: the target compressed-tensors needs one")
    stored = StoredCheckpoint(folder)
    beside = {path.name: path.read_bytes() for path in (folder / CONFIG, *files_beside(folder))}
    return index_of(((name, stored.tensor(name)) for name in stored.names), beside)


def require_readable(
    index: onnx.ModelProto, inputs: LanguageInputs, texts: Sequence[str], where: str
) -> None:
    """Read some texts layer by layer, as every later run will.

    Raises:
        BadInput: transformers knows no such model, a weight or a result is not finite, or the
            tokenizer has tokens that the model has no embedding for.
    """
    import torch

    decoder = StreamedDecoder(CarriedCheckpoint(index))
    if inputs.vocabulary > decoder.words:
        raise BadInput(
            f"input.tokenizer has {inputs.vocabulary} tokens, and the model's vocabulary "
            f"{decoder.words}: they are of different models"
        )
    if decoder.positions is not None and inputs.max_length > decoder.positions:
        raise BadInput(
            f"input.max_length is {inputs.max_length}, and {where} has {decoder.positions} "
            "positions: lower it"
        )
    rows, _ = padded([reading.ids for reading in inputs.read(texts)])
    hidden, calls = decoder.begin(torch.from_numpy(rows))
    for layer in range(decoder.layers):
        with decoder.loaded(layer, decoder.original(layer)):
            hidden = decoder.run(layer, hidden, calls[layer])
        return_freed()
    if not all(bool(torch.isfinite(_last(decoder, row)).all()) for row in hidden):
        raise BadInput(
            f"source: {where} reads its first golden cases as NaN or infinity in {decoder.dtype}: "
            "bring the weights in another type"
        )


def _last(decoder: StreamedDecoder, hidden: torch.Tensor) -> torch.Tensor:
    return decoder.logits(hidden[-1:])
