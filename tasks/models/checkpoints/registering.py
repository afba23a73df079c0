"""A checkpoint's folder, taken into the workspace when its model is registered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from infra.errors import BadInput
from infra.processes.memory import return_freed
from infra.processes.telling import tell
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.models.checkpoints.decoder import StreamedDecoder
from tasks.models.checkpoints.index_graph import index_of
from tasks.models.checkpoints.stored import CONFIG, StoredCheckpoint
from tasks.models.language.inputs import EncodedText, LanguageInputs

if TYPE_CHECKING:
    import torch

SAME = {4: 1e-4, 2: 2e-2}
"""What logits may differ by, relative to their size, by the bytes of a number."""
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
    _require_unquantized(folder)
    beside = {path.name: path.read_bytes() for path in (folder / CONFIG, *files_beside(folder))}
    return index_of(_tensors(stored), beside)


def _tensors(stored: StoredCheckpoint) -> Iterator[tuple[str, torch.Tensor]]:
    for place, name in enumerate(stored.names, 1):
        tell(f"taking in tensor {place} of {len(stored.names)}")
        yield name, stored.tensor(name)


def _require_unquantized(folder: Path) -> None:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as exc:
        raise BadInput(f"{folder / CONFIG} is no JSON ({exc}): copy it again") from exc
    if isinstance(config, dict) and config.get("quantization_config"):
        raise BadInput(
            f"source: {CONFIG} says that the weights are quantized (quantization_config): bring "
            "them as they were before, with the configuration that they had"
        )


def require_readable(
    index: onnx.ModelProto, inputs: LanguageInputs, texts: Sequence[str], where: str
) -> None:
    """Read some texts layer by layer, as every later run will, and as the family's own code does.

    Raises:
        BadInput: transformers knows no such model, its layers cannot be run one by one to the same
            logits, none of them can be quantized, a weight or a result is not finite, or the
            tokenizer has tokens that the model has no embedding for.
    """
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
    require_exact(decoder, inputs.read(texts), where)


def require_exact(decoder: StreamedDecoder, readings: Sequence[EncodedText], where: str) -> None:
    """Hold layers that are run one by one against the family's own code, on some texts.

    Raises:
        BadInput: As `require_readable`, of the model.
    """
    import torch

    _require_linear(decoder)
    decoder.require_finite_outside()
    for reading in readings:
        ids = torch.tensor([reading.ids])
        whole, layered = _whole(decoder, ids), _layered(decoder, ids)
        if not bool(torch.isfinite(whole).all()):
            raise BadInput(
                f"source: {where} reads its first golden cases as NaN or infinity in "
                f"{decoder.dtype}: bring the weights in another type"
            )
        lost = float((layered - whole).norm() / whole.norm().clamp(min=1e-30))
        if not lost < SAME[decoder.dtype.itemsize]:
            raise BadInput(
                f"source: {decoder.kind} read one decoder layer at a time gives other logits than "
                f"read as a whole (they differ by {lost:.1%}): it does not work as a checkpoint"
            )


def _require_linear(decoder: StreamedDecoder) -> None:
    from torch import nn

    layers = map(decoder.module, range(decoder.layers))
    parts = [part for layer in layers for part in layer.modules()]
    if any(isinstance(part, nn.Linear) for part in parts):
        return
    other = {
        type(part).__name__
        for part in parts
        if getattr(getattr(part, "weight", None), "ndim", 0) == 2
    }
    raise BadInput(
        f"source: the decoder layers of {decoder.kind} multiply by {', '.join(sorted(other))}, of "
        "which compressed-tensors quantizes none (torch's Linear alone): name targets that take a "
        "graph"
    )


def _whole(decoder: StreamedDecoder, ids: torch.Tensor) -> torch.Tensor:
    try:
        tell(f"reading {ids.shape[-1]} tokens with the model as a whole")
        return decoder.whole(ids)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as exc:
        line = " ".join(str(exc).split())[:200]
        raise BadInput(
            f"source: transformers' code of {decoder.kind} cannot be run here ({line})"
        ) from exc


def _layered(decoder: StreamedDecoder, ids: torch.Tensor) -> torch.Tensor:
    try:
        hidden, calls = decoder.begin(ids)
        for layer in range(decoder.layers):
            tell(f"trying decoder layer {layer + 1} of {decoder.layers} by itself")
            with decoder.loaded(layer, decoder.original(layer)):
                hidden = decoder.run(layer, hidden, calls[layer])
            return_freed()
        return decoder.logits(hidden)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as exc:
        line = " ".join(str(exc).split())[:200]
        raise BadInput(
            f"source: {decoder.kind} cannot be read one decoder layer at a time ({line}): it does "
            "not work as a checkpoint"
        ) from exc
