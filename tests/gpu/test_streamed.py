"""A checkpoint derived layer by layer on a device, beside the same on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.devices import NEEDS_CUDA

pytestmark = NEEDS_CUDA
SAME = 0.97
"""Of the first layer's quantized values. Products round elsewhere on a device, and a value between
two is either; behind that layer both see other activations, and other scales follow."""


@pytest.mark.parametrize("recipe", ["int8-smooth", "int4-gptq", "fp8", "int8-per-token"])
def test_the_device_writes_what_the_cpu_writes(tmp_path: Path, recipe: str) -> None:
    """The first layer's quantized values are the same but for a few, and so is what both cost."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from safetensors.torch import load_file

    from benchmarks.language import random_llama
    from tasks.models.checkpoints.stored import StoredCheckpoint
    from tasks.quantization.recipe.catalog import find_recipe
    from tasks.quantization.streamed.derive import derive

    source = tmp_path / "source"
    source.mkdir()
    random_llama.write(source, random_llama.LlamaShape(256, 704, 3, 8, 2, 1000))
    ids = torch.randint(0, 1000, (10, 64), generator=torch.Generator().manual_seed(3))
    found = {}
    for device in ("cpu", "cuda"):
        made = derive(
            StoredCheckpoint(source),
            tmp_path / device,
            find_recipe(recipe),
            ids[:8],
            {"random": ids[8:]},
            device=device,
            dtype=torch.float32,
        )
        values = {}
        for path in sorted((tmp_path / device).glob("*.safetensors")):
            values |= load_file(path)
        found[device] = values, made.judged[0].perplexity_ratio
    (here, cost), (there, other) = found["cpu"], found["cuda"]
    quantized = [
        name
        for name in here
        if name.startswith("model.layers.0.") and name.endswith((".weight_packed", "_proj.weight"))
    ]
    same = sum(int((here[name] == there[name]).sum()) for name in quantized)
    fraction = same / sum(here[name].numel() for name in quantized)
    print(
        f"{recipe}: {fraction:.4f} of {len(quantized)} layers' words equal, {cost:.5f} {other:.5f}"
    )
    assert here.keys() == there.keys()
    # Eight values of 4 bits share a word.
    assert fraction >= (SAME**8 if recipe == "int4-gptq" else SAME)
    assert other == pytest.approx(cost, rel=0.02)
