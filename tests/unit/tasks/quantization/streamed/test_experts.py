"""Checkpoints of routed experts, and of older families, as transformers reads what was written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from infra.errors import BadInput
from infra.settings import Settings
from tasks.layerwise.quantized import QUANTIZATION, QuantizedCheckpoint
from tasks.layerwise.rounding import rounding_activations
from tasks.layerwise.stored_layer import StoredLayer
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.models.checkpoints.decoder import StreamedDecoder
from tasks.models.checkpoints.index_graph import index_of
from tasks.models.checkpoints.registering import taken_in
from tasks.models.checkpoints.stored import StoredCheckpoint, every_tensor
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.streamed.candidate import quantized_share
from tasks.quantization.streamed.derive import DerivedCheckpoint, derive
from tests.random_families import OLDER, ROUTED, WORDS, write_family


def ids(windows: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, WORDS, (windows, 24), generator=torch.Generator().manual_seed(seed))


def derived(source: Path, output: Path, recipe: str, **options: Any) -> DerivedCheckpoint:
    judged = {"all": ids(6, seed=1)}
    return derive(StoredCheckpoint(source), output, find_recipe(recipe), ids(8), judged, **options)


def loss(folder: Path) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    windows = ids(6, seed=1)
    with torch.no_grad():
        logits = model(windows).logits[:, :-1]
    wanted = windows[:, 1:]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()))


def said(made: DerivedCheckpoint) -> float:
    (judged,) = made.judged
    return math.log(judged.perplexity * judged.perplexity_ratio)


@pytest.mark.parametrize(
    ("family", "recipe"),
    [
        *((family, "int8-smooth") for family in (*ROUTED, "GPTNeoX", "GPTJ")),
        ("Mixtral", "int4-gptq"),
        ("DeepseekV3", "int4-gptq"),
    ],
)
def test_transformers_finds_the_loss_that_was_said(
    tmp_path: Path, family: str, recipe: str
) -> None:
    source = write_family(tmp_path / "source", family, {**ROUTED, **OLDER}[family])
    made = derived(source, tmp_path / "out", recipe)
    assert math.log(made.judged[0].perplexity) == pytest.approx(loss(source), abs=1e-5)
    assert said(made) == pytest.approx(loss(tmp_path / "out"), abs=1e-5)
    assert abs(math.log(made.judged[0].perplexity_ratio)) > 1e-4  # experts or not, it is quantized


def test_of_fp8_experts_transformers_rounds_the_weights_alone(tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "Mixtral", ROUTED["Mixtral"])
    made = derived(source, tmp_path / "out", "fp8")
    assert said(made) == pytest.approx(loss(tmp_path / "out"), abs=0.1)
    assert said(made) != pytest.approx(loss(tmp_path / "out"), abs=1e-4)


def test_a_range_a_token_of_fp8_is_the_librarys() -> None:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    torch.manual_seed(0)
    values = torch.randn(1, 5, 16) * torch.tensor([[1.0], [30.0], [1e-3], [1e3], [0.1]])
    args = QuantizationArgs(num_bits=8, type="float", strategy="token", dynamic=True)
    layer = torch.nn.Linear(16, 4)
    scale, zero = compute_dynamic_scales_and_zp(values, args, layer)
    stored = StoredLayer(
        torch.zeros(4, 16).to(torch.float8_e4m3fn), torch.ones(4, 1), 8, None, None, by_token=True
    )
    rounded = []
    with rounding_activations(layer, {"": stored}):
        layer.register_forward_pre_hook(lambda _, inputs: rounded.append(inputs[0]))
        layer(values)
    torch.testing.assert_close(rounded[0], fake_quantize(values, scale, zero, args))
    assert not torch.equal(rounded[0], values)


def test_a_router_stays_and_is_named_as_everybody_asks_for_it(tmp_path: Path) -> None:
    """The checkpoint's names are those that vLLM asks for; transformers has its own."""
    source = write_family(tmp_path / "source", "Mixtral", ROUTED["Mixtral"])
    made = derived(source, tmp_path / "out", "int8-smooth")
    config = json.loads((tmp_path / "out" / "config.json").read_text())[QUANTIZATION]
    assert {"model.layers.0.block_sparse_moe.gate", "model.layers.0.mlp.gate", "lm_head"} < {
        *config["ignore"]
    }
    read = {
        target: group["input_activations"]
        for group in config["config_groups"].values()
        for target in group["targets"]
    }
    assert read[r"re:.*\.experts\..*"] is None
    assert read["model.layers.0.self_attn.q_proj"]["dynamic"] is False
    assert len(read) == 1 + 2 * 4
    names = dict(every_tensor(tmp_path / "out"))
    assert "model.layers.1.block_sparse_moe.experts.3.w2.weight_packed" in names
    assert made.quantized == 2 * (4 + 4 * 3)


def test_experts_that_no_text_reaches_are_rounded_to_the_nearest_and_named(tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "Qwen2Moe", ROUTED["Qwen2Moe"])
    file = source / "model.safetensors"
    state = load_file(file)
    gate = state["model.layers.1.mlp.gate.weight"]
    gate[3] = -30 * gate[:3].abs().sum(0)  # below the others for most tokens
    state["model.layers.1.post_attention_layernorm.weight"].abs_()
    gate[:3], gate[3] = 0, 0
    gate[3, 0] = 1e-6
    state["model.layers.1.post_attention_layernorm.weight"][0] = 0
    save_file(state, file, metadata={"format": "pt"})
    made = derived(source, tmp_path / "out", "int4-gptq")
    unreached = {name for name in made.scarce if ".layers.1." in name}
    assert len(unreached) == 4  # two of four experts get every token, and two none
    assert said(made) == pytest.approx(loss(tmp_path / "out"), abs=1e-5)


def test_what_was_ended_goes_on_with_the_experts_that_were_written(tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "Mixtral", ROUTED["Mixtral"])
    whole = derived(source, tmp_path / "whole", "int4-gptq")

    def end(layer: int, of: int) -> None:
        if layer == of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        derived(source, tmp_path / "ended", "int4-gptq", told=end)
    again = derived(source, tmp_path / "ended", "int4-gptq")
    assert again.resumed_at == 1
    assert again.judged == whole.judged
    first, second = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("whole", "ended")
    )
    assert first == second


def test_the_workspaces_copy_is_what_was_derived(workspace: Settings, tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "Mixtral", ROUTED["Mixtral"])
    derived(source, tmp_path / "out", "int8-smooth")
    config = {"config.json": (tmp_path / "out" / "config.json").read_bytes()}
    carried = CarriedCheckpoint(index_of(every_tensor(tmp_path / "out"), config))
    original = CarriedCheckpoint(taken_in(source))
    decoder = StreamedDecoder(original)
    layer = QuantizedCheckpoint(carried, decoder).layer(0)
    expert = layer.quantized["mlp.experts.2.w1"]
    exact = original.tensor("model.layers.0.block_sparse_moe.experts.2.w1.weight")
    assert expert.input_scale is None
    assert float((expert.dequantized() - exact).abs().max()) <= float(expert.scales.max())
    assert layer.quantized["self_attn.q_proj"].input_scale is not None
    quantized = 2 * (4 * 32 * 32 + 4 * 3 * 32 * 64)
    floats = 2 * WORDS * 32 + 2 * 4 * 32 + 5 * 32  # embeddings and head, routers, norms
    assert quantized_share(carried.index) == pytest.approx(quantized / (quantized + floats))


def test_a_pattern_that_keeps_an_expert_is_refused(tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "Mixtral", ROUTED["Mixtral"])
    with pytest.raises(BadInput, match=r"finds the routed expert model\.layers\.0\.mlp\.experts"):
        derived(source, tmp_path / "out", "int8-smooth", keep="w2")
    made = derived(source, tmp_path / "kept", "int8-smooth", keep="layers.0.self_attn")
    assert made.quantized == 2 * (4 + 4 * 3) - 4
    assert said(made) == pytest.approx(loss(tmp_path / "kept"), abs=1e-5)
