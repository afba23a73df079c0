"""A Hugging Face text encoder with mean pooling, from token ids to an embedding of length 1."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim

from tasks.models.loading import Loaded, OriginalRun, Probe
from tasks.models.text.adapter import laid_beside, merged
from tasks.specs.spec import ModelSpec

POOLED = frozenset({"Transformer", "Pooling", "Normalize"})
"""What a sentence-transformers folder may list in modules.json; the pooling must be the mean."""
PROBED = 1024
"""Tokens that an encoder is asked for at most, unless it has a longer window: beyond what families
attend to otherwise, such as 704 of BigBird and 512 relative positions of DeBERTa."""
_WINDOWS = ("local_attention", "sliding_window", "attention_window")


class SentenceEncoder(nn.Module):
    """A transformer encoder, mean pooling over the attention mask, and L2 normalisation."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return embeddings: token ids and mask [batch, tokens] -> [batch, hidden]."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(pooled, dim=1)


def load_text_encoder(spec: ModelSpec, folder: Path, adapter: Path | None = None) -> Loaded:
    """Load the encoder of a Hugging Face folder in FP32; whatever transformers raises passes.

    An `adapter` is asked beside the weights, as its users run it, and merged into what is returned.

    Raises:
        ValueError: for another pooling than the mean, and for fewer positions than
            `input.max_length`.
    """
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    _require_mean_pooling(folder)
    longest = spec.input.max_length
    runs = _original_runs(folder, longest, adapter)
    # Eager attention exports to plain products and a softmax, which every target parses.
    encoder = AutoModel.from_pretrained(
        str(folder),
        local_files_only=True,
        trust_remote_code=False,
        attn_implementation="eager",
        dtype=torch.float32,
    )
    vocabulary = int(encoder.config.vocab_size)
    if adapter is not None:
        encoder = merged(laid_beside(encoder, adapter))
    batch, tokens = Dim("batch", min=1, max=1024), Dim("tokens", min=2, max=max(longest, 16))
    shape = {0: batch, 1: tokens}
    probe = _probe(vocabulary, (16, 9, 5))
    shapes = {"input_ids": shape, "attention_mask": shape}
    return Loaded(SentenceEncoder(encoder).eval(), probe, shapes, runs)


def _original_runs(folder: Path, longest: int, adapter: Path | None) -> tuple[OriginalRun, ...]:
    """Ask the model itself, as its users call it: past its windows, with padding, and shortly.

    The longest is asked first: BigBird changes for good once it has read a short text.

    Raises:
        ValueError: It has too few positions, or fails on so many tokens.
    """
    from transformers import AutoModel

    original = AutoModel.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False, dtype=torch.float32
    ).eval()
    config = original.config
    if adapter is not None:
        original = laid_beside(original, adapter)
    positions = getattr(config, "max_position_embeddings", None)
    if positions and longest > positions:
        raise ValueError(f"input.max_length is {longest}, and the model has {positions} positions")
    tokens = min(longest, max(PROBED, 2 * _window(config)))
    lengths = ((tokens, tokens * 2 // 3), (16, 9, 5), (9, 4), (16,), (2,))
    runs = []
    for real in lengths:
        probe = _probe(int(config.vocab_size), tuple(max(1, min(size, tokens)) for size in real))
        try:
            with torch.no_grad():
                hidden = original(**probe).last_hidden_state.numpy()
        except Exception as exc:  # torch and the family's own code raise their own kinds
            line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
            raise ValueError(
                f"the model fails on texts of {max(real)} tokens ({line}); lower input.max_length"
            ) from exc
        runs.append(OriginalRun(probe, _pooled(hidden, probe["attention_mask"].numpy())))
    return tuple(runs)


def _pooled(hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return means over real tokens, of length 1: [batch, tokens, hidden] -> [batch, hidden]."""
    real = mask[..., None].astype(np.float64)
    means = (hidden * real).sum(1) / real.sum(1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    normalised: NDArray[np.float64] = means / np.maximum(lengths, 1e-12)
    return normalised


def _window(config: object) -> int:
    """Return the longest window that any layer attends to; 0 where none is named."""
    sizes: list[int] = []
    for name in _WINDOWS:
        value = getattr(config, name, None)
        sizes += [int(size) for size in (value if isinstance(value, Sequence) else [value or 0])]
    return max(sizes)


def _probe(vocabulary: int, lengths: Sequence[int]) -> Probe:
    """Return texts of these lengths, padded on the right."""
    longest = max(lengths)
    generator = torch.Generator().manual_seed(longest)
    ids = torch.randint(1, vocabulary, (len(lengths), longest), generator=generator)
    mask = torch.arange(longest)[None, :] < torch.tensor(lengths)[:, None]
    return {"input_ids": ids, "attention_mask": mask.to(torch.int64)}


def _require_mean_pooling(folder: Path) -> None:
    """Refuse another pooling: it would export, run, and be another model than its authors'."""
    modules, pooling = folder / "modules.json", folder / "1_Pooling" / "config.json"
    kinds = (
        {str(item["type"]).rsplit(".", 1)[-1] for item in json.loads(modules.read_text())}
        if modules.exists()
        else {}
    )
    if not set(kinds) <= POOLED:
        raise ValueError(
            f"modules.json lists {', '.join(sorted(set(kinds) - POOLED))}; bring a model.onnx "
            "instead"
        )
    if pooling.exists() and not json.loads(pooling.read_text()).get(
        "pooling_mode_mean_tokens", False
    ):
        raise ValueError(
            "1_Pooling/config.json asks for another pooling than the mean; bring a model.onnx "
            "instead"
        )
