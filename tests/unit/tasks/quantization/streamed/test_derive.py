"""Checkpoints derived layer by layer, beside what transformers makes of the same files."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from infra.errors import BadInput, Unavailable
from tasks.models.checkpoints.stored import StoredCheckpoint
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.streamed import written
from tasks.quantization.streamed.derive import DerivedCheckpoint, derive
from tests.language_folders import VOCABULARY, write_folder

FAMILIES = ("llama", "qwen2")


def ids(windows: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (windows, 24), generator=random)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Write a family's checkpoint when it is first asked for."""
    made: dict[str, Path] = {}

    def build(family: str, **shape: int) -> Path:
        if family not in made:
            made[family] = write_folder(tmp_path_factory.mktemp(family), family, **shape)
        return made[family]

    return build


def derived(source: Path, output: Path, recipe: str, **options: Any) -> DerivedCheckpoint:
    return derive(
        StoredCheckpoint(source),
        output,
        find_recipe(recipe),
        ids(8),
        {"all": ids(3, seed=1)},
        **options,
    )


def loss(folder: Path, kind: torch.dtype = torch.float32) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()
    windows = ids(3, seed=1)
    with torch.no_grad():
        logits = model(windows).logits[:, :-1].float()
    wanted = windows[:, 1:]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()))


def tensors(folder: Path) -> dict[str, bytes]:
    """Return every tensor's bytes: the order of a file's notes is not said."""
    found = {}
    for path in folder.glob("*.safetensors"):
        for name, value in load_file(path).items():
            found[name] = value.contiguous().view(torch.uint8).numpy().tobytes()
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("recipe", "most"),
    [
        ("int8-smooth", 1.1),
        ("int8-per-token", 1.1),
        ("int8-weights", 1.03),
        ("fp8", 1.2),
        ("int4-gptq", 1.6),
        ("int4-awq", 1.6),
    ],
)
def test_transformers_finds_the_loss_that_was_said(
    folder: Any, tmp_path: Path, family: str, recipe: str, most: float
) -> None:
    source = folder(family)
    made = derived(source, tmp_path / "out", recipe)
    (judged,) = made.judged
    assert math.log(judged.perplexity) == pytest.approx(loss(source), rel=1e-4)
    said = math.log(judged.perplexity * judged.perplexity_ratio)
    assert said == pytest.approx(loss(tmp_path / "out"), rel=5e-3)
    assert 1 / most < judged.perplexity_ratio < most
    assert made.unsmoothed == ()
    assert made.quantized == 14
    assert made.kept == ("lm_head",)


@pytest.mark.parametrize("recipe", ["int8-smooth", "int4-gptq"])
def test_scales_of_a_bfloat16_checkpoint_are_bfloat16_and_judged_as_such(
    folder: Any, tmp_path: Path, recipe: str
) -> None:
    shutil.copytree(folder("llama"), tmp_path / "short")
    path = tmp_path / "short" / "model.safetensors"
    short = {name: value.bfloat16() for name, value in load_file(path).items()}
    save_file(short, path, metadata={"format": "pt"})
    made = derived(tmp_path / "short", tmp_path / "out", recipe, dtype=torch.float32)
    (judged,) = made.judged
    said = math.log(judged.perplexity * judged.perplexity_ratio)
    assert said == pytest.approx(loss(tmp_path / "out"), rel=5e-3)
    scales = {
        value.dtype
        for file in (tmp_path / "out").glob("*.safetensors")
        for name, value in load_file(file).items()
        if name.endswith("weight_scale")
    }
    assert scales == {torch.bfloat16}


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [(torch.bfloat16, "int8-smooth"), (torch.bfloat16, "fp8"), (torch.float16, "int8-smooth")],
)
def test_in_16_bits_only_the_division_of_what_layers_read_differs(
    folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: torch.dtype, recipe: str
) -> None:
    """With its division in float32, the library finds the same loss.

    compressed-tensors divides in the model's type, and vLLM's kernel in float32, as is done here.
    """
    from compressed_tensors.quantization.lifecycle import forward

    shutil.copytree(folder("llama"), tmp_path / "short")
    path = tmp_path / "short" / "model.safetensors"
    save_file(
        {name: value.to(kind) for name, value in load_file(path).items()},
        path,
        metadata={"format": "pt"},
    )
    made = derived(tmp_path / "short", tmp_path / "out", recipe)
    (judged,) = made.judged
    said = math.log(judged.perplexity * judged.perplexity_ratio)
    assert math.log(judged.perplexity) == pytest.approx(loss(tmp_path / "short", kind), abs=1e-6)
    assert said == pytest.approx(loss(tmp_path / "out", kind), abs=0.02)
    own = forward.fake_quantize

    def in_float32(x: torch.Tensor, scale: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        return own(x.float(), scale.float(), *rest, **named).to(x.dtype)

    monkeypatch.setattr(forward, "fake_quantize", in_float32)
    assert said == pytest.approx(loss(tmp_path / "out", kind), abs=1e-6)


def test_folded_scales_leave_full_precision_as_it_was(folder: Any, tmp_path: Path) -> None:
    """With every linear layer but one kept, what was folded is all that differs."""
    source = folder("llama")
    made = derived(source, tmp_path / "out", "int8-smooth", keep="layers.0|[kqvo]_proj|gate|down")
    assert made.quantized == 1
    assert made.judged[0].perplexity_ratio == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("recipe", ["int8-smooth", "int4-gptq", "fp8-kv"])
def test_an_ended_derivation_goes_on_to_the_same_tensors(
    folder: Any, tmp_path: Path, recipe: str
) -> None:
    source = folder("llama")
    whole = derived(source, tmp_path / "whole", recipe)

    def end(layer: int, of: int) -> None:
        if layer == of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        derived(source, tmp_path / "ended", recipe, told=end)
    assert not (tmp_path / "ended" / "config.json").exists()
    again = derived(source, tmp_path / "ended", recipe)
    assert again.resumed_at == 1
    assert again.judged == whole.judged
    assert tensors(tmp_path / "ended") == tensors(tmp_path / "whole")


def test_a_full_disk_loses_nothing(
    folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, calls = folder("llama"), [0]

    def save(*args: Any, **named: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(28, "No space left on device")
        save_file(*args, **named)

    monkeypatch.setattr("safetensors.torch.save_file", save)
    with pytest.raises(Unavailable, match=r"free some space.*goes on with layer 2"):
        derived(source, tmp_path / "out", "int8-max")
    assert [path.name for path in (tmp_path / "out").glob("*.partial")] == []
    assert derived(source, tmp_path / "out", "int8-max").resumed_at == 1


@pytest.mark.parametrize("name", [written.PROGRESS, "config.json"])
def test_a_disk_that_is_full_at_either_end_blocks_no_later_call(
    folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, own = folder("llama"), Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if path.name == f"{name}.partial":
            own(path, data[:1])
            raise OSError(28, "No space left on device")
        return own(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(Unavailable, match="free some space, and run the same command"):
            derived(source, tmp_path / "out", "int8-max")
    derived(source, tmp_path / "out", "int8-max")
    assert not list((tmp_path / "out").glob("*.partial"))


def test_what_is_kept_stays_and_is_named(folder: Any, tmp_path: Path) -> None:
    source = folder("llama")
    made = derived(source, tmp_path / "out", "int8-smooth", keep="down_proj")
    assert made.quantized == 12
    assert [name for name in made.kept if name.endswith("down_proj")] == [
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
    ]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert set(made.kept) == set(config["quantization_config"]["ignore"])
    assert math.log(made.judged[0].perplexity * made.judged[0].perplexity_ratio) == pytest.approx(
        loss(tmp_path / "out"), rel=5e-3
    )


def test_layers_whose_folds_are_not_exact_are_named(tmp_path: Path) -> None:
    """Gemma's norms add one to their weights, so that dividing these is no fold."""
    from transformers import GemmaConfig, GemmaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 8}
    config = GemmaConfig(
        vocab_size=VOCABULARY, num_attention_heads=4, num_key_value_heads=2, **shape
    )
    model = GemmaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "gemma")
    made = derived(tmp_path / "gemma", tmp_path / "out", "int8-smooth")
    assert made.unsmoothed == (
        "model.layers.0.self_attn.q_proj+k_proj+v_proj",
        "model.layers.0.mlp.gate_proj+up_proj",
    )


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def changed(source: Path, target: Path, name: str, change: Any) -> Path:
    copied(source, target)
    state = load_file(target / "model.safetensors")
    state[name] = change(state[name])
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weight: weight.to(torch.int8), "holds model.layers.1.mlp.down_proj.weight in I8"),
        (lambda weight: weight * float("nan"), "holds NaN or infinity"),
    ],
)
def test_a_bad_weight_is_named(folder: Any, tmp_path: Path, change: Any, sentence: str) -> None:
    source = changed(folder("llama"), tmp_path / "bad", DOWN, change)
    with pytest.raises(BadInput, match=sentence):
        derived(source, tmp_path / "out", "int8-weights")


def test_what_is_missing_is_named(folder: Any, tmp_path: Path) -> None:
    source = copied(folder("llama"), tmp_path / "bad")
    state = load_file(source / "model.safetensors")
    del state[DOWN]
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=f"the checkpoint lacks {DOWN}"):
        derived(source, tmp_path / "out", "int8-weights")
    (source / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no \*.safetensors"):
        derived(source, tmp_path / "out", "int8-weights")
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match=r"names model-00001-of-00002.safetensors, which is not"):
        derived(source, tmp_path / "out", "int8-weights")
    (source / "config.json").unlink()
    with pytest.raises(BadInput, match=r"has no config.json"):
        derived(source, tmp_path / "out", "int8-weights")


def test_arguments_that_cannot_be_are_refused(folder: Any, tmp_path: Path) -> None:
    source, recipe = folder("llama"), find_recipe("int8-weights")
    with pytest.raises(BadInput, match="which has no such ranges of activations: use one of"):
        derived(source, tmp_path / "a", "int8-dynamic")
    with pytest.raises(BadInput, match="int4-gptq needs a calibration set"):
        derive(StoredCheckpoint(source), tmp_path / "b", find_recipe("int4-gptq"))
    with pytest.raises(BadInput, match="leaves no layer to quantize"):
        derived(source, tmp_path / "c", "int8-weights", keep=".")
    with pytest.raises(BadInput, match="the token 300, and the model has embeddings for 300"):
        derive(
            StoredCheckpoint(source), tmp_path / "d", recipe, None, {"all": ids(1) * 0 + VOCABULARY}
        )
    with pytest.raises(BadInput, match="windows have 96 tokens, and the model has 64 positions"):
        derive(
            StoredCheckpoint(source), tmp_path / "e", find_recipe("int8-max"), ids(4).view(1, 96)
        )
    with pytest.raises(BadInput, match="no window of two tokens"):
        derive(StoredCheckpoint(source), tmp_path / "f", recipe, None, {"all": ids(1)[:, :1]})
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not empty"):
        derived(source, tmp_path / "g", "int8-weights")
    derived(source, tmp_path / "h", "int8-weights")
    with pytest.raises(BadInput, match="holds what another recipe"):
        derived(source, tmp_path / "h", "int8-max")
    assert written.PROGRESS in {path.name for path in (tmp_path / "h").iterdir()}


def test_weights_that_were_replaced_meanwhile_are_another_checkpoint(
    folder: Any, tmp_path: Path
) -> None:
    source = shutil.copytree(folder("llama"), tmp_path / "source")
    derived(source, tmp_path / "out", "int8-weights")
    file = next(source.glob("*.safetensors"))
    trained = {name: value + 1 for name, value in load_file(file).items()}
    before = file.stat().st_size
    save_file(trained, file, metadata={"format": "pt"})
    assert file.stat().st_size == before
    with pytest.raises(BadInput, match="another recipe, calibration set or checkpoint"):
        derived(source, tmp_path / "out", "int8-weights")
