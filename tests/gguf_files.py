"""A folder of a small Llama written as one GGUF file, as llama.cpp's converter does."""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(folder: Path, path: Path, *, quantized: bool = False) -> Path:
    """Write the folder's model; `quantized` stores its matrices in Q8_0."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    _add_tokenizer(writer, folder)
    for name, values in load_file(folder / "model.safetensors").items():
        turned = {"q_proj": heads, "k_proj": kv_heads}
        count = next((n for part, n in turned.items() if part in name), None)
        values = values if count is None else _interleaved(values, count)
        if quantized and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(_named(name), gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(_named(name), np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = model["model"]["vocab"]
    special = {item["content"]: item["id"] for item in model["added_tokens"]}
    tokens = sorted({**vocabulary, **special}, key=lambda text: {**vocabulary, **special}[text])
    merges = [
        " ".join(pair) if isinstance(pair, list) else pair for pair in model["model"]["merges"]
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if text in special else 1 for text in tokens])
    writer.add_token_merges(merges)
    end = next(iter(special.values()))
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(value=True)
    writer.add_chat_template(CHATML)


def _named(name: str) -> str:
    prefix, stem = "", name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, number, stem = stem.split(".", 3)
        prefix = f"blk.{number}."
    return f"{prefix}{_NAMES[stem]}.weight"


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Order rows as llama.cpp rotates them: pairs side by side instead of halves."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape)
