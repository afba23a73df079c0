"""Hugging Face folders of small, random language models, as a user would bring their own."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 300
END = "<end>"
TEXTS = (
    "Quantized models go stale.",
    "Die Katze sitzt auf dem Dach.",
    "def add(x):\n    return x + 1\n",
    "モデル",
)


def write_folder(
    folder: Path, family: str, *, layers: int = 2, hidden: int = 32, positions: int = 64
) -> Path:
    """Write config.json, model.safetensors and tokenizer.json of one family.

    Families are llama, qwen2 and gpt2.
    """
    torch.manual_seed(0)
    model = _model(family, layers, hidden, positions)
    # Weights of the usual size give nearly flat logits; larger ones make the next token depend on
    # the text.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def write_massive(folder: Path, family: str, token: int, *, layers: int = 2) -> Path:
    """Write a model whose first layer makes hundreds of times more of one token than of others."""
    from torch.nn.functional import normalize
    from transformers import AutoModelForCausalLM

    write_folder(folder, family, layers=layers)
    model = AutoModelForCausalLM.from_pretrained(folder)
    table = model.get_input_embeddings().weight
    parts = model.base_model.children()
    first = next(part for part in parts if isinstance(part, torch.nn.ModuleList))[0]
    with torch.no_grad():
        direction = torch.randn(table.shape[1])
        direction = normalize(direction - direction.mean(), dim=0)
        if family == "gpt2":
            model.transformer.wpe.weight.zero_()
            first.attn.c_proj.weight.zero_()
            ways = [first.mlp.c_fc.weight.T]
        else:
            first.self_attn.o_proj.weight.zero_()
            ways = [first.mlp.up_proj.weight, first.mlp.gate_proj.weight]
        table -= torch.outer(table @ direction, direction)
        table[token] = 4 * direction
        for weight in ways:
            weight[0] = 400 * direction
    model.save_pretrained(folder)
    return folder


def write_adapter(core: Path, folder: Path, *layers: str) -> Path:
    """Write a LoRA over a folder's model, of random weights, so that it says something else.

    It is over the `layers` named, or two of every block.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(core, dtype=torch.float32)
    targets = list(layers) or ["q_proj", "down_proj"]
    rules = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    get_peft_model(model, rules).save_pretrained(folder)
    return folder


def tokenizer() -> Tokenizer:
    """Byte-level BPE of 300 tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    made.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    return made


def _model(family: str, layers: int, hidden: int, positions: int) -> Any:
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    common = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    shape = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": positions,
    }
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**common, **shape, tie_word_embeddings=True))
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**common, **shape))
    return GPT2LMHeadModel(
        GPT2Config(**common, n_embd=hidden, n_layer=layers, n_head=4, n_positions=positions)
    )


def write_chain(folder: Path, starts: str, word: str) -> Path:
    """Write a model that follows a text's last token alone.

    After a text that ends with one token it writes a word, after any other nothing.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    made, width = tokenizer(), 128
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            bos_token_id=0,
            eos_token_id=0,
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=False,
        )
    )
    chain = made.encode(f"{starts}{word}").ids[1:]  # without the token before every text
    follows = dict.fromkeys(range(VOCABULARY), 0) | dict(zip(chain, [*chain[1:], 0], strict=True))
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        vectors = torch.nn.functional.normalize(torch.randn(VOCABULARY, width))
        model.model.embed_tokens.weight.copy_(vectors)
        head = torch.zeros(VOCABULARY, width)
        for token, following in follows.items():
            head[following] += vectors[token] * (8 if token in chain else 1)
        model.lm_head.weight.copy_(head)
    model.save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    return folder
