"""Checkpoints by a mean of bits: measured in the files, read by transformers, spent on loss."""

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
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.models.checkpoints.experts import is_routed
from tasks.models.checkpoints.index_graph import index_of
from tasks.models.checkpoints.stored import StoredCheckpoint, every_tensor
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.ladder import climb_checkpoint
from tasks.quantization.streamed.candidate import blocks_fit
from tasks.quantization.streamed.derive import DerivedCheckpoint, derive
from tasks.quantization.streamed.losses import losses_alone, place
from tasks.records import Action
from tests.language_folders import VOCABULARY, write_folder
from tests.random_families import ROUTED, WORDS, write_family

OUTLIERS = "model.layers.1.mlp.down_proj"
BITS = 5.7
RECIPE = find_recipe(f"int4-{BITS}-bits")


def ids(windows: int, seed: int = 0, words: int = VOCABULARY) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, words, (windows, 24), generator=random)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One weight of each block of one layer is 30 times the others, and reads zeros alone."""
    folder = write_folder(tmp_path_factory.mktemp("llama"), "llama", hidden=64)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][::32] = 0
    weights[f"{OUTLIERS}.weight"][:, ::32] *= 30
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def derived(source: Path, output: Path, **options: Any) -> DerivedCheckpoint:
    stored = StoredCheckpoint(source)
    placement = place(options.pop("keep", None), stored, RECIPE, ids(8))
    return derive(
        stored,
        output,
        RECIPE,
        ids(8),
        {"all": ids(3, seed=1)},
        keep=placement.keep,
        raised=placement.raised,
        **options,
    )


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: value
        for path in folder.glob("*.safetensors")
        for name, value in load_file(path).items()
    }


def mean_bits(folder: Path) -> float:
    """Count bytes of packed values and of scales over weights."""
    found = tensors(folder)
    parts = [name for name in found if name.endswith((".weight_packed", ".weight_scale"))]
    weights = sum(math.prod(found[name].tolist()) for name in found if name.endswith("_shape"))
    return 8 * sum(found[name].nbytes for name in parts) / weights


def loss(folder: Path) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    windows = ids(3, seed=1)
    with torch.no_grad():
        logits = model(windows).logits[:, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()))


def test_the_mean_is_kept_in_the_files_and_spent_on_what_loses_most(
    source: Path, tmp_path: Path
) -> None:
    made = derived(source, tmp_path / "out")
    assert made.bits == pytest.approx(mean_bits(tmp_path / "out"), rel=1e-9)
    assert 5 < made.bits <= BITS
    assert OUTLIERS in made.raised
    said = math.log(made.judged[0].perplexity * made.judged[0].perplexity_ratio)
    assert said == pytest.approx(loss(tmp_path / "out"), rel=5e-3)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "pack-quantized"
    by_bits = {group["weights"]["num_bits"]: group for group in config["config_groups"].values()}
    assert by_bits[8]["weights"]["strategy"] == "channel"
    assert {*by_bits[8]["targets"]} == {*made.raised}
    assert by_bits[4]["weights"]["group_size"] == 32


def test_what_is_kept_in_floating_point_is_no_part_of_the_mean(
    source: Path, tmp_path: Path
) -> None:
    made = derived(source, tmp_path / "out", keep=OUTLIERS)
    assert OUTLIERS in made.kept
    assert OUTLIERS not in made.raised
    assert 5 < made.bits == pytest.approx(mean_bits(tmp_path / "out"), rel=1e-9)
    assert made.bits <= BITS


def test_an_ended_derivation_goes_on_to_the_same_tensors(source: Path, tmp_path: Path) -> None:
    whole = derived(source, tmp_path / "whole")

    def end(layer: int, of: int) -> None:
        if layer == of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        derived(source, tmp_path / "ended", told=end)
    again = derived(source, tmp_path / "ended")
    assert again.resumed_at == 1
    assert (again.judged, again.bits, again.raised) == (whole.judged, whole.bits, whole.raised)
    left, right = tensors(tmp_path / "ended"), tensors(tmp_path / "whole")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    with pytest.raises(BadInput, match="another recipe"):
        derive(StoredCheckpoint(source), tmp_path / "ended", RECIPE, ids(8), raised=())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_scales_of_16_bits_leave_room_for_more(kind: torch.dtype, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "short", "llama", hidden=64)
    path = folder / "model.safetensors"
    short = {name: value.to(kind) for name, value in load_file(path).items()}
    save_file(short, path, metadata={"format": "pt"})
    made = derived(folder, tmp_path / "out")
    assert 5 < made.bits == pytest.approx(mean_bits(tmp_path / "out"), rel=1e-9)
    assert made.bits <= BITS


def test_fewer_bits_than_a_models_blocks_have_are_refused(source: Path) -> None:
    few = find_recipe("int4-4.4-bits")
    with pytest.raises(BadInput, match=r"int4-4.4-bits: a weight of this model has 4\.\d+ bits at"):
        place(None, StoredCheckpoint(source), few, ids(8))
    with pytest.raises(BadInput, match="name texts"):
        place(None, StoredCheckpoint(source), few, None)
    with pytest.raises(BadInput, match="no regular expression"):
        place("(", StoredCheckpoint(source), few, ids(8))


def test_a_full_search_tries_what_a_models_blocks_can_have(source: Path) -> None:
    index = index_of(every_tensor(source), {"config.json": (source / "config.json").read_bytes()})
    tried = [
        recipe.name
        for recipe in climb_checkpoint(
            recipe=None, made_by="int4-5.25-bits", action=Action.RECALIBRATE, search="full"
        )
        if blocks_fit(CarriedCheckpoint(index), recipe)
    ]
    assert tried[0] == "int4-5.25-bits"
    assert "int4-6-bits" in tried
    assert "int4-4.5-bits" in tried
    assert not blocks_fit(CarriedCheckpoint(index), find_recipe("int4-4.4-bits"))


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> StoredCheckpoint:
    folder = tmp_path_factory.mktemp("routed")
    return StoredCheckpoint(write_family(folder, "DeepseekV3", ROUTED["DeepseekV3"]))


def test_experts_stay_in_int4_and_count(routed: StoredCheckpoint, tmp_path: Path) -> None:
    windows = ids(8, words=WORDS)
    raised = place(None, routed, RECIPE, windows).raised
    assert raised
    assert not [name for name in raised if is_routed(name)]
    derive(routed, tmp_path / "out", RECIPE, windows, raised=raised)
    assert 5 < mean_bits(tmp_path / "out") <= BITS


def test_what_servers_multiply_by_as_one_is_placed_as_one(routed: StoredCheckpoint) -> None:
    losses = losses_alone(routed, RECIPE, ids(8, words=WORDS))
    beside = "model.layers.1.mlp.shared_experts"
    together = {item.readers for item in losses}
    assert (f"{beside}.gate_proj", f"{beside}.up_proj") in together
    latent = ("q_a_proj", "kv_a_proj_with_mqa")
    assert tuple(f"model.layers.0.self_attn.{name}" for name in latent) in together
