"""What transformers loads of an exported champion answers as the champion's engine does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from infra.engines import open_target
from infra.errors import BadInput
from tasks.graphs.sites import expose, find_sites
from tasks.models.language.inputs import padded, prefill_feeds
from tasks.observation.watch import watch
from tasks.quantization.compressed.exported import write_checkpoint
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline import candidate
from tasks.quantization.pipeline.candidate import CalibrationEvidence
from tasks.quantization.recipe.catalog import find_recipe

TEXTS = [f"{place} the cat sits on the roof of the house {place}" for place in range(24)]


def quantized(small: Any, recipe: str) -> tuple[Any, Any]:
    made = small("llama")
    sites = find_sites(made.graph)
    engine = open_target("onnxruntime-cpu").load(expose(made.graph, sites).SerializeToString())
    observed = watch(engine, sites, made.inputs, TEXTS)
    evidence = CalibrationEvidence(made.graph, sites, observed, many_rows=observed)
    return made, candidate.quantize(evidence, find_recipe(recipe)).graph


@pytest.mark.parametrize(
    ("recipe", "format"),
    [
        ("int8-max", "int-quantized"),
        ("fp8", "float-quantized"),
        ("int4-gptq", "pack-quantized"),
        ("int8-weights", "pack-quantized"),
    ],
)
def test_transformers_loads_what_the_engine_runs(
    small: Any, tmp_path: Path, recipe: str, format: str
) -> None:
    made, graph = quantized(small, recipe)
    written = write_checkpoint(graph, find_sites(made.graph), made.folder, tmp_path)
    assert written.formats == (format,)
    assert written.quantized == 14
    assert written.kept == ("lm_head",)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids, mask = padded([made.inputs.encode([TEXTS[0]])[0]])
    with torch.no_grad():
        loaded = model(torch.from_numpy(ids)).logits.numpy()
    feeds = prefill_feeds(made.inputs.layout, ids, mask)
    engine = open_target("onnxruntime-cpu").load(lower(graph, "u8").SerializeToString())
    served, full = (item.run(feeds)["logits"] for item in (engine, made.engine))
    lost = np.abs(served - full).mean()
    # The head is in fewer bits in the graph alone, so both differ a little from each other.
    assert np.abs(loaded - served).mean() < max(0.5 * lost, 0.02 * np.abs(full).mean())


def test_smoothing_scales_have_no_place_in_the_format(small: Any, tmp_path: Path) -> None:
    made, graph = quantized(small, "int8-smooth")
    with pytest.raises(BadInput, match="no place for the smoothing scales"):
        write_checkpoint(graph, find_sites(made.graph), made.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
