"""Checkpoints of small, random models of many families, as transformers stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = 60
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
WIDER: dict[str, Any] = {**SHAPE, "hidden_size": 32, "intermediate_size": 64}
LATENT: dict[str, Any] = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
ROUTED: dict[str, dict[str, Any]] = {
    "Mixtral": {**WIDER, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2Moe": {  # with an expert that every token reaches, and a gate before it
        **WIDER,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64,
        "decoder_sparse_step": 1,
    },
    "DeepseekV3": {  # a layer without experts before one with, and a router's bias
        **WIDER,
        **LATENT,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
}
OLDER: dict[str, dict[str, Any]] = {
    "GPTNeoX": {**WIDER, "num_key_value_heads": None},  # calls its head otherwise than its files
    "GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8, "n_positions": 32},
    "GPTNeo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 32,
        "window_size": 4,
    },
}


def write_family(folder: Path, family: str, shape: dict[str, Any]) -> Path:
    """Write a checkpoint of a family, as transformers names it, with weights of some size."""
    import transformers

    torch.manual_seed(0)
    special = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    kind = "Llama4Text" if family == "Llama4" else family
    config = getattr(transformers, f"{kind}Config")(**special, **shape)
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model = getattr(transformers, family + head)(config)
    with torch.no_grad():
        for name in model.state_dict():
            value = model.state_dict()[name]
            value.add_(0.3 * torch.randn(value.shape))
    model.save_pretrained(folder)
    return folder
