"""Hugging Face folders of small, random Whisper, CLIP and ViT models, as a user brings them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SIDE = 16
WORDS = ("<end>", "<start>", "<en>", "a", "b", "c", "d", "red", "green", "blue")
VOCABULARY = {word: number for number, word in enumerate(WORDS)}


def write_whisper(folder: Path, *, positions: int = 50, **changes: Any) -> Path:
    """Write a model of one second of sound, 16 mel bands, one layer on each side."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    torch.manual_seed(0)
    size = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in SIZES.items()}
    ends = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    rest = {"suppress_tokens": [7], "begin_suppress_tokens": [0]}
    shape = {
        "vocab_size": len(WORDS),
        "num_mel_bins": 16,
        "d_model": 32,
        "max_target_positions": 24,
    }
    config = WhisperConfig(**size, **ends, **rest, **shape, max_source_positions=positions)
    model = _loud(WhisperForConditionalGeneration(config))
    model.generation_config.suppress_tokens, model.generation_config.begin_suppress_tokens = (
        [7],
        [0],
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    _change(folder / "preprocessor_config.json", changes)
    return folder


SIZES = {"layers": 1, "attention_heads": 4, "ffn_dim": 64}


def write_clip(folder: Path, **changes: Any) -> Path:
    """Both towers, one layer each; pixels are normalised."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    size = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    text = {
        **size,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 8,
        "bos_token_id": 1,
        "eos_token_id": 0,
    }
    vision = {**size, "image_size": SIDE, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    _loud(CLIPModel(config)).save_pretrained(folder)
    normalisation = {
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(normalisation | changes))
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def write_vit(folder: Path) -> Path:
    """Write a ViT without a head, and without a preprocessor: pixels go in as they are."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    size = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    _loud(ViTModel(ViTConfig(**size, image_size=SIDE, patch_size=8))).save_pretrained(folder)
    return folder


def tokenizer() -> Tokenizer:
    """Return a tokenizer of one token a word, with an end."""
    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<end>", "<start>", "<en>"])
    made.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 0)]
    )
    return made


def _loud(model: Any) -> Any:
    """Enlarge weights: those of the usual size give nearly flat outputs, whatever the input."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model.eval()


def _change(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_bert(folder: Path, *, positions: int = 32, spread: float = 0.02) -> Path:
    """Write a one-layer encoder of the BERT kind, whose weights are drawn with this deviation."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        initializer_range=spread,
    )
    model = BertModel(config)
    with torch.no_grad():  # all biases start at zero, and the exporter would merge them into one
        for number, parameter in enumerate(model.parameters()):
            parameter += 0.01 * (number + 1)
    model.save_pretrained(folder)
    return folder
