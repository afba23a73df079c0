"""Families whose code does more than a norm and a head behind its layers, or other than Llama's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from infra.errors import BadInput, Unavailable
from tasks.layerwise.batches import begin
from tasks.layerwise.needs import needed_memory, require_room
from tasks.models.checkpoints.decoder import StreamedDecoder
from tasks.models.checkpoints.registering import require_exact, taken_in
from tasks.models.checkpoints.stored import StoredCheckpoint
from tasks.models.language.inputs import EncodedText
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.streamed.derive import derive
from tests.random_families import OLDER, ROUTED, SHAPE, WORDS, write_family

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "rope_theta": 1e4,
    "original_max_position_embeddings": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "OPT": {  # narrow embeddings, and what widens and narrows them
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "word_embed_proj_dim": 8,
        "do_layer_norm_before": False,
    },
    "Cohere": {**SHAPE, "logit_scale": 0.25},
    "Gemma2": {
        **SHAPE,
        "head_dim": 8,
        "sliding_window": 4,
    },  # caps logits; not by torch's attention
    "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},  # ALiBi
    "Phi3": {**SHAPE, "original_max_position_embeddings": 8, "rope_parameters": LONG},
    "Olmo": SHAPE,  # norms without weights
    "Olmo3": {  # positions of their own in layers that see all, and others in windows
        **SHAPE,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "CodeGen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 32},
    "Falcon": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **ROUTED,
    **OLDER,
}


def texts() -> list[EncodedText]:
    rng = np.random.default_rng(0)
    return [EncodedText(rng.integers(1, WORDS, length).tolist()) for length in (3, 5, 5, 7, 12, 20)]


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_read_one_by_one_give_the_familys_own_logits(tmp_path: Path, family: str) -> None:
    write_family(tmp_path, family, FAMILIES[family])
    decoder, readings = StreamedDecoder(StoredCheckpoint(tmp_path)), texts()
    own = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    batches = begin(decoder, readings)
    for layer in range(decoder.layers):
        with decoder.loaded(layer, decoder.original(layer)):
            for batch in batches:
                batch.read(decoder, layer)
    for batch in batches:
        for row, case in enumerate(batch.cases):
            ids = torch.tensor([readings[case].ids])
            with torch.no_grad():
                wanted = own(ids).logits
            hidden = batch.hidden[[row], : batch.lengths[row]]
            torch.testing.assert_close(decoder.logits(hidden), wanted)
            torch.testing.assert_close(decoder.whole(ids), wanted)


def test_norms_without_weights_take_no_smoothing_scales(tmp_path: Path) -> None:
    source = write_family(tmp_path / "olmo", "Olmo", SHAPE)
    windows = torch.randint(1, WORDS, (4, 16), generator=torch.Generator().manual_seed(0))
    made = derive(
        StoredCheckpoint(source), tmp_path / "out", find_recipe("int8-smooth"), calibration=windows
    )
    assert "model.layers.0.self_attn.q_proj+k_proj+v_proj" in made.unsmoothed
    assert made.quantized == 14


@pytest.mark.parametrize(
    ("family", "shape", "said"),
    [
        ("GptOss", {**SHAPE, "head_dim": 8}, "all experts of a layer in one tensor .*has no rule"),
        ("GraniteMoe", SHAPE, "all experts of a layer in one tensor .*has no rule to read these"),
        ("Llama4", {**SHAPE, "head_dim": 8}, "with other modules, whose tensors are not written"),
        ("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 2}, "multiply by Conv1D, of which"),
    ],
)
def test_what_does_not_work_as_a_checkpoint_is_refused(
    tmp_path: Path, family: str, shape: dict[str, Any], said: str
) -> None:
    write_family(tmp_path, family, shape)
    with pytest.raises(BadInput, match=said):
        require_exact(StreamedDecoder(StoredCheckpoint(tmp_path)), texts(), where="x")


def test_names_of_an_older_transformers_are_told(tmp_path: Path) -> None:
    file = write_family(tmp_path, "Bloom", FAMILIES["Bloom"]) / "model.safetensors"
    old = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
    save_file(old, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"names without 'transformer\.': load it"):
        StreamedDecoder(StoredCheckpoint(tmp_path))


def test_layers_that_depend_on_what_is_between_them_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a family whose loop over its layers adds something would be."""
    from transformers.models.llama.modeling_llama import LlamaModel

    own = LlamaModel.forward

    def forward(self: Any, *positional: Any, **named: Any) -> Any:
        layers = list(self.layers)
        hook = layers[0].register_forward_hook(lambda *parts: parts[-1] + 1.0)
        try:
            return own(self, *positional, **named)
        finally:
            hook.remove()

    decoder = StreamedDecoder(StoredCheckpoint(write_family(tmp_path, "Llama", SHAPE)))
    require_exact(decoder, texts(), where="x")
    monkeypatch.setattr(LlamaModel, "forward", forward)
    with pytest.raises(BadInput, match="gives other logits than read as a whole"):
        require_exact(decoder, texts(), where="x")


def test_the_code_of_a_folder_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked either: transformers would, at a terminal."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    write_family(tmp_path, "Llama", SHAPE)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(BadInput, match="names no causal language model"):
        StreamedDecoder(StoredCheckpoint(tmp_path))


def head_of_its_own(state: dict[str, torch.Tensor]) -> None:
    state["lm_head.weight"] = state["model.embed_tokens.weight"] + 1


def short_norm(state: dict[str, torch.Tensor]) -> None:
    state["model.layers.1.input_layernorm.weight"] = torch.ones(3)


def broken_norm(state: dict[str, torch.Tensor]) -> None:
    state["model.norm.weight"][0] = torch.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (head_of_its_own, "ties lm_head.weight to model.embed_tokens.weight, and the checkpoint"),
        (
            short_norm,
            r"layers.1.input_layernorm.weight is \[3\], and config.json makes it \[16\]",
        ),
        (broken_norm, "the weight model.norm.weight holds NaN"),
    ],
)
def test_weights_that_are_not_the_models_are_named(tmp_path: Path, change: Any, said: str) -> None:
    file = (
        write_family(tmp_path, "Llama", {**SHAPE, "tie_word_embeddings": True})
        / "model.safetensors"
    )
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=said):
        require_exact(StreamedDecoder(StoredCheckpoint(tmp_path)), texts(), where="x")


def test_a_head_that_is_stored_twice_alike_is_tied(tmp_path: Path) -> None:
    file = (
        write_family(tmp_path, "Llama", {**SHAPE, "tie_word_embeddings": True})
        / "model.safetensors"
    )
    state = load_file(file)
    save_file(
        {**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()},
        file,
        metadata={"format": "pt"},
    )
    decoder = StreamedDecoder(StoredCheckpoint(tmp_path))
    require_exact(decoder, texts(), where="x")
    head, table = decoder.model.get_output_embeddings(), decoder.model.get_input_embeddings()
    assert head.weight is table.weight


def test_an_index_that_names_more_than_a_file_holds_is_refused(tmp_path: Path) -> None:
    file = write_family(tmp_path, "Llama", SHAPE) / "model.safetensors"
    names = [*load_file(file), "model.layers.9.weight"]
    index = {"weight_map": dict.fromkeys(names, file.name)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match=r"lacks model\.layers\.9\.weight, which .* says is in it"):
        StoredCheckpoint(tmp_path).tensor("model.layers.9.weight")


def test_a_configuration_that_says_quantized_is_refused(tmp_path: Path) -> None:
    write_family(tmp_path, "Llama", SHAPE)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="says that the weights are quantized"):
        taken_in(tmp_path)


def test_texts_that_memory_is_too_short_for_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, readings = (
        StreamedDecoder(StoredCheckpoint(write_family(tmp_path, "Llama", SHAPE))),
        texts(),
    )
    least = needed_memory(decoder, readings, quantized=True, judged=True)
    monkeypatch.setattr("infra.processes.memory.available", lambda root: least)
    require_room(decoder, readings, quantized=True, judged=True)
    monkeypatch.setattr("infra.processes.memory.available", lambda root: least - 1)
    with pytest.raises(Unavailable, match="reading 6 texts layer by layer needs about"):
        require_room(decoder, readings, quantized=True, judged=True)
