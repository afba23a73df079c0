"""Decoders whose layers look back over a window are exported as themselves, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Cohere2Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Starcoder2Config,
)

from infra.errors import BadInput
from tasks.models.export import export
from tasks.models.language.decoder import CachedDecoder
from tasks.specs.spec import InputSpec, ModelSpec, Task

WINDOW = 8
SIZE: Mapping[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXED: Mapping[str, Any] = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
WINDOWED: Mapping[str, PretrainedConfig] = {
    "mistral": MistralConfig(**SIZE, sliding_window=WINDOW, head_dim=8),
    "qwen2": Qwen2Config(
        **SIZE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "gemma2": Gemma2Config(**SIZE, **MIXED, head_dim=8),
    "gemma3": Gemma3TextConfig(**SIZE, **MIXED, head_dim=8),
    "phi3": Phi3Config(**SIZE, sliding_window=WINDOW),
    "starcoder2": Starcoder2Config(**SIZE, sliding_window=WINDOW),
    "cohere2": Cohere2Config(**SIZE, **MIXED),
}
ALIBI: Mapping[str, PretrainedConfig] = {
    "bloom": BloomConfig(vocab_size=96, hidden_size=32, n_layer=1, n_head=4),
    "falcon": FalconConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, alibi=True
    ),
}


def write(folder: Path, config: PretrainedConfig) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def spec() -> ModelSpec:
    limits = InputSpec(tokenizer="tokenizer.json", max_length=24, new_tokens=8)
    return ModelSpec.model_construct(name="m", task=Task.CAUSAL_LM, input=limits)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in ("qwen2", "gemma3") else pytest.mark.soak)
        for family in WINDOWED
    ],
)
def test_a_graph_answers_past_its_window_as_the_untouched_model(
    family: str, tmp_path: Path
) -> None:
    export(spec(), write(tmp_path, WINDOWED[family]))  # it holds the two against each other


def test_a_graph_that_lost_its_window_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, WINDOWED["mistral"])
    blind = CachedDecoder.__init__
    monkeypatch.setattr(CachedDecoder, "__init__", lambda self, model, *_, **__: blind(self, model))
    with pytest.raises(BadInput, match=r"differs by .* from the model called as its users call it"):
        export(spec(), folder)


@pytest.mark.parametrize("family", ALIBI)
def test_positions_told_by_alibi_are_refused_by_name(family: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"{family} tells positions by ALiBi"):
        export(spec(), write(tmp_path, ALIBI[family]))
