"""A language model of more than one protobuf message holds, from a checkpoint to MLflow.

Random weights, 2.3 GB in float32 and half of it on the disk, written shard by shard.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from benchmarks.language import memory
from examples.rows import CorpusRow, Payload, write
from infra.settings import Settings, use_workspace
from infra.weights.naming import weight_files
from tasks.graphs.files import LIMIT, float_weights
from tasks.models.golden import write_golden
from tests.integration.test_language import _spec, golden_cases, sentences
from tests.integration.test_weights_beside import SERVE
from tests.language_folders import tokenizer

pytestmark = [pytest.mark.timeout(3600), pytest.mark.soak]
HIDDEN, INNER, LAYERS, VOCABULARY = 2048, 5632, 10, 32_000
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def write_llama(folder: Path) -> None:
    """Write the folder of a Llama of random weights in BF16, a shard a layer."""
    random, shards = torch.Generator().manual_seed(0), {}

    def shard(number: int, shapes: dict[str, tuple[int, ...]]) -> None:
        name = f"model-{number:05}-of-{LAYERS + 1:05}.safetensors"
        tensors = {}
        for key, shape in shapes.items():
            scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.0
            made = torch.randn(shape, generator=random) * scale + (len(shape) == 1)
            tensors[key], shards[key] = made.to(torch.bfloat16), name
        save_file(tensors, folder / name, metadata={"format": "pt"})

    table, width = (VOCABULARY, HIDDEN), 4 * HIDDEN // 32
    names = {"model.embed_tokens.weight": table, "lm_head.weight": table}
    shard(1, {**names, "model.norm.weight": (HIDDEN,)})
    for place in range(LAYERS):
        of = f"model.layers.{place}"
        attention = {"q": HIDDEN, "k": width, "v": width}
        shard(
            place + 2,
            {
                **{
                    f"{of}.self_attn.{part}_proj.weight": (rows, HIDDEN)
                    for part, rows in attention.items()
                },
                f"{of}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
                f"{of}.mlp.gate_proj.weight": (INNER, HIDDEN),
                f"{of}.mlp.up_proj.weight": (INNER, HIDDEN),
                f"{of}.mlp.down_proj.weight": (HIDDEN, INNER),
                f"{of}.input_layernorm.weight": (HIDDEN,),
                f"{of}.post_attention_layernorm.weight": (HIDDEN,),
            },
        )
    (folder / "config.json").write_text(json.dumps(CONFIG))
    index = {"metadata": {}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    tokenizer().save(str(folder / "tokenizer.json"))


def write_model(folder: Path) -> None:
    """Write checkpoint, pool, golden set and spec."""
    write_llama(folder)
    assert float_weights(folder) > LIMIT
    rows = [
        CorpusRow(str(n), Payload(text=text), "docs", "en")
        for n, text in enumerate(sentences(50, 4))
    ]
    write(folder / "calibration.parquet", rows)
    (folder / "golden.parquet").write_bytes(write_golden(golden_cases()))
    (folder / "model.yaml").write_text(yaml.safe_dump(_spec() | {"targets": ["onnxruntime-cpu"]}))


def test_estimates_are_near_what_the_work_takes(tmp_path: Path) -> None:
    write_model(tmp_path)
    size = float_weights(tmp_path)
    for work in (memory.ADD, memory.OBSERVE, "int8-smooth"):
        row = memory.measured(work, tmp_path, size, quick=True)
        assert 0.8 <= row.estimated / row.anonymous <= 1.25, row
        if work == memory.ADD:
            assert row.resident <= 1.5, row


def test_it_is_registered_quantized_released_and_served(
    shared_workspace: Settings, tmp_path: Path
) -> None:
    from infra.stores.layout import CALIBRATION
    from tasks.models.catalog import register
    from tasks.promotion.release import Judged
    from tasks.promotion.steps import release_candidate
    from tasks.promotion.verification import require_intact
    from tasks.quantization.steps import build_engine, observe, write_graph
    from tasks.records import EngineRef
    from tasks.sampling.digest import sample_of
    from tasks.sampling.stored_samples import keep_sample

    chosen = use_workspace(shared_workspace.root)
    write_model(tmp_path)
    model = register(tmp_path / "model.yaml")
    reference = model.file("reference.onnx")
    assert len(reference) < 10_000_000
    assert sum(weight_files(reference).values()) > LIMIT
    sample = sample_of(model.pool, seen=len(model.pool), dropped={})
    calibration = keep_sample(chosen.store(), CALIBRATION, model.name, sample)
    candidate = write_graph.fn(calibration, observe.fn(calibration), "int8-max", None)
    engine = build_engine.fn(candidate, "onnxruntime-cpu")
    assert engine.size < 0.5 * sum(weight_files(reference).values())
    engines = [EngineRef("onnxruntime-cpu", engine.size, 0.0, True, "")]
    release = release_candidate.fn(Judged(candidate, engines, ()), "test")
    require_intact(release)
    served = subprocess.run(
        [sys.executable, "-c", SERVE, release.version],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert served.returncode == 0, served.stderr[-2000:]
