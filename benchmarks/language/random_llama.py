"""Checkpoints of Llama's shapes with random weights, written to disk a layer at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SPREAD = 0.02
_SEED = 0


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """How large a Llama is."""

    width: int
    wide: int  # of the gated layer
    layers: int
    heads: int
    kv_heads: int
    words: int

    @property
    def weights(self) -> int:
        """How many weights it has, with a head of its own."""
        attention = 2 * self.width**2 + 2 * self.width * self.width * self.kv_heads // self.heads
        return self.layers * (attention + 3 * self.width * self.wide) + 2 * self.words * self.width


LLAMA_3_8B = LlamaShape(4096, 14_336, 32, 32, 8, 128_256)
TINYLLAMA_1_1B = LlamaShape(2048, 5632, 22, 32, 4, 32_000)


def write(folder: Path, shape: LlamaShape) -> None:
    """Write a checkpoint in bfloat16, a file a layer, with index and configuration.

    Every matrix is a piece of one sequence of normal numbers, at a place of its own.
    """
    import torch
    from safetensors.torch import save_file

    largest = max(shape.width * shape.wide, 1 << 16)
    random = torch.Generator().manual_seed(_SEED)
    noise = (torch.randn(largest + (1 << 20), generator=random) * SPREAD).bfloat16()
    placed = {}
    for number, tensors in enumerate(_files(shape, noise)):
        name = f"model-{number + 1:05d}-of-{shape.layers + 1:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        placed |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(_config(shape)))


def word_tokenizer(words: int) -> bytes:
    """Return a tokenizer.json of so many words, w0 and so on."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = {f"w{number}": number for number in range(words)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return str(tokenizer.to_str()).encode()


def texts(count: int, tokens: int, words: int) -> list[str]:
    """Return texts of so many of these words, drawn alike."""
    drawn = np.random.default_rng(_SEED).integers(1, words, (count, tokens))
    return [" ".join(f"w{number}" for number in row) for row in drawn]


def _files(shape: LlamaShape, noise: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
    import torch

    random = torch.Generator().manual_seed(_SEED + 1)

    def matrix(outputs: int, inputs: int) -> torch.Tensor:
        count = outputs * inputs
        at = int(torch.randint(0, 1 << 20, (1,), generator=random))
        piece = noise[at : at + count]
        return piece.repeat(-(-count // len(piece)))[:count].reshape(outputs, inputs).clone()

    width, wide = shape.width, shape.wide
    narrow = width * shape.kv_heads // shape.heads
    ones = torch.ones(width, dtype=torch.bfloat16)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield {
            f"{prefix}.input_layernorm.weight": ones.clone(),
            f"{prefix}.self_attn.q_proj.weight": matrix(width, width),
            f"{prefix}.self_attn.k_proj.weight": matrix(narrow, width),
            f"{prefix}.self_attn.v_proj.weight": matrix(narrow, width),
            f"{prefix}.self_attn.o_proj.weight": matrix(width, width),
            f"{prefix}.post_attention_layernorm.weight": ones.clone(),
            f"{prefix}.mlp.gate_proj.weight": matrix(wide, width),
            f"{prefix}.mlp.up_proj.weight": matrix(wide, width),
            f"{prefix}.mlp.down_proj.weight": matrix(width, wide),
        }
    yield {
        "model.embed_tokens.weight": matrix(shape.words, width),
        "model.norm.weight": ones.clone(),
        "lm_head.weight": matrix(shape.words, width),
    }


def _config(shape: LlamaShape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.width,
        "intermediate_size": shape.wide,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.words,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
