"""Keys and values of a checkpoint in FP8: what is written, how it is judged, and who reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DynamicCache

from infra.errors import BadInput
from tasks.layerwise.attention_cache import CacheScales, read_scales
from tasks.layerwise.watching import RangeWatch
from tasks.models.checkpoints.stored import StoredCheckpoint
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.schemes import FP8_HEADROOM
from tasks.quantization.streamed.derive import DerivedCheckpoint, derive
from tests.language_folders import VOCABULARY, write_folder
from tests.random_families import OLDER, ROUTED, SHAPE, WORDS, write_family

LARGEST = 448


def ids(windows: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (windows, 24), generator=random)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp(request.param), request.param)


def derived(source: Path, output: Path, recipe: str = "fp8-kv") -> DerivedCheckpoint:
    stored, judged = StoredCheckpoint(source), {"all": ids(3, 1)}
    return derive(stored, output, find_recipe(recipe), ids(8, 0), judged)


def refusal(source: Path, output: Path, recipe: str) -> str:
    with pytest.raises(BadInput) as refused:
        derive(StoredCheckpoint(source), output, find_recipe(recipe), ids(2, 0) % WORDS)
    assert not output.exists()
    return str(refused.value)


def scales_in(folder: Path) -> dict[str, float]:
    return {
        name: float(value)
        for path in folder.glob("*.safetensors")
        for name, value in load_file(path).items()
        if name.endswith((".k_scale", ".v_scale"))
    }


class ByHand(DynamicCache):
    """Rounds what it is handed to E4M3, as a server that stores nothing else reads it."""

    def __init__(self, scales: dict[str, float] | None) -> None:
        super().__init__()
        self.scales, self.largest = scales, dict[str, float]()

    def update(  # type: ignore[override]
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        made = []
        for name, item in (("k", keys), ("v", values)):
            full = f"model.layers.{layer}.self_attn.{name}_scale"
            self.largest[full] = float(item.abs().max())
            if self.scales is not None:
                step = self.scales[full]
                within = (item / step).clamp(-LARGEST, LARGEST)
                item = within.to(torch.float8_e4m3fn).to(item.dtype) * step
            made.append(item)
        return made[0], made[1]


def read(folder: Path, windows: torch.Tensor, cache: ByHand | None = None) -> float:
    """Return transformers' loss on windows, over a cache of ours or its own."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(windows, past_key_values=cache).logits[:, :-1]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()))


@contextmanager
def without_scales(folder: Path) -> Iterator[Path]:
    """Leave the cache's scheme out of the configuration, so that the library rounds nothing."""
    path = folder / "config.json"
    written = path.read_text()
    config = json.loads(written)
    del config["quantization_config"]["kv_cache_scheme"]
    path.write_text(json.dumps(config))
    yield folder
    path.write_text(written)


def test_its_loss_is_that_of_the_same_arithmetic_by_hand_and_of_the_library(
    source: Path, tmp_path: Path
) -> None:
    made = derived(source, tmp_path / "out")
    (judged,) = made.judged
    said = math.log(judged.perplexity * judged.perplexity_ratio)
    scales = scales_in(tmp_path / "out")
    assert made.cached == 2
    with without_scales(tmp_path / "out") as bare:
        plain = read(bare, ids(3, 1))
        by_hand = read(bare, ids(3, 1), ByHand(scales))
        broken = read(bare, ids(3, 1), ByHand({name: item / 20 for name, item in scales.items()}))
    assert said == pytest.approx(by_hand, abs=1e-5)
    assert said == pytest.approx(read(tmp_path / "out", ids(3, 1)), abs=1e-5)
    assert abs(plain - by_hand) > 1e-4
    assert abs(broken - by_hand) > 0.02


def test_scales_are_twice_the_largest_rotated_key_and_value_over_448(
    source: Path, tmp_path: Path
) -> None:
    derived(source, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    scheme = config["quantization_config"]["kv_cache_scheme"]
    assert scheme == {
        "num_bits": 8,
        "type": "float",
        "symmetric": True,
        "strategy": "tensor",
        "dynamic": False,
    }
    seen = ByHand(None)
    read(source, ids(8, 0), seen)
    written = scales_in(tmp_path / "out")
    assert written.keys() == seen.largest.keys()
    first = {name for name in written if ".layers.0." in name}
    for name in first:  # later layers read what quantized ones made
        assert written[name] == pytest.approx(FP8_HEADROOM * seen.largest[name] / LARGEST, rel=1e-5)


def test_new_traffic_renews_them_and_its_drift_is_watched(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "llama", "llama")
    path = source / "model.safetensors"
    state = load_file(path)
    table, key = "model.embed_tokens.weight", "model.layers.0.self_attn.k_proj.weight"
    state[table][:, 0] = 0
    state[table][200:, 0] = 2 * state[table].abs().max()
    state[key][:, 0] *= 20
    save_file(state, path, metadata={"format": "pt"})
    quiet, loud = ids(8, 0) % 200, 200 + ids(8, 0) % 100
    stored, recipe = StoredCheckpoint(source), find_recipe("fp8-kv")
    watched = RangeWatch(8)
    derive(stored, tmp_path / "old", recipe, quiet, watched=watched)
    derive(stored, tmp_path / "new", recipe, loud)
    old, new = scales_in(tmp_path / "old"), scales_in(tmp_path / "new")
    name = "model.layers.0.self_attn"
    assert new[f"{name}.k_scale"] > 5 * old[f"{name}.k_scale"]
    assert watched.reach[f"{name}.keys"] == pytest.approx(old[f"{name}.k_scale"] * LARGEST)
    assert watched.histograms[f"{name}.keys"].total == quiet.numel() * 2 * 8
    assert watched.histograms[f"{name}.values"].amax < watched.reach[f"{name}.values"]


def test_what_reads_no_such_scales_is_refused(tmp_path: Path) -> None:
    latent = write_family(tmp_path / "latent", "DeepseekV3", {**SHAPE, **ROUTED["DeepseekV3"]})
    assert "deepseek_v3 caches what both are made" in refusal(latent, tmp_path / "a", "fp8-kv")
    joined = write_family(tmp_path / "joined", "GPTNeoX", {**SHAPE, **OLDER["GPTNeoX"]})
    assert "no attention of gpt_neox is known to" in refusal(joined, tmp_path / "b", "fp8-kv")
    assert "in INT8: vLLM reads scales of FP8 alone" in refusal(joined, tmp_path / "c", "int8-kv")


def test_a_scale_of_keys_alone_is_refused() -> None:
    scales = CacheScales(0.5, 0.25).tensors("self_attn")
    assert read_scales(scales) == {"self_attn": CacheScales(0.5, 0.25)}
    del scales["self_attn.v_scale"]
    with pytest.raises(BadInput, match="self_attn has a scale of keys or of values alone"):
        read_scales(scales)
