"""A checkpoint that is incomplete, broken or of another kind is refused in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.errors import BadInput
from infra.settings import Settings, use_workspace
from infra.weights.naming import tensors_beside
from tasks.graphs.weights import constant_values
from tasks.models.export import export
from tasks.models.language.checkpoint import INDEX, stored_type
from tasks.models.language.gguf_file import weights_in_float32
from tasks.models.language.inputs import LanguageInputs, require_vocabulary
from tests.unit.tasks.models.conftest import spec

WEIGHTS = "model.safetensors"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(small: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small("llama").folder, tmp_path / "llama"))


def changed(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def sharded(folder: Path) -> tuple[Tensors, Tensors]:
    """Split the weights into two shards, of which only the first is written."""
    names = sorted(tensors := load_file(folder / WEIGHTS))
    (folder / WEIGHTS).unlink()
    parts = [{name: tensors[name] for name in names[place::2]} for place in (0, 1)]
    files = {name: f"shard-{place}.safetensors" for place in (0, 1) for name in parts[place]}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    save_file(parts[0], folder / "shard-0.safetensors", metadata={"format": "pt"})
    return parts[0], parts[1]


def refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        export(spec(), folder)
    return str(caught.value)


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    sharded(folder)
    assert "names shard-1.safetensors, which is not there (1 of 2 shards" in refusal(folder)


def test_weights_that_are_missing_are_not_made_up(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    changed(folder, tensors)
    assert "the weights lack model.layers.1.mlp.up_proj.weight" in refusal(folder)


def test_a_shard_of_integers_is_named_with_its_type(folder: Path) -> None:
    _, second = sharded(folder)
    name = next(name for name in second if name.endswith("proj.weight"))
    second[name] = second[name].to(torch.int8)
    save_file(second, folder / "shard-1.safetensors", metadata={"format": "pt"})
    assert f"shard-1.safetensors holds {name} in I8: bring the weights in float32" in refusal(
        folder
    )


def test_shards_of_two_float_types_are_read_in_float32(folder: Path) -> None:
    first, second = sharded(folder)
    short = {name: value.to(torch.bfloat16) for name, value in second.items()}
    save_file(short, folder / "shard-1.safetensors", metadata={"format": "pt"})
    assert stored_type(folder) is torch.float32
    one = {name: value.to(torch.bfloat16) for name, value in first.items()}
    save_file(one, folder / "shard-0.safetensors", metadata={"format": "pt"})
    assert stored_type(folder) is torch.bfloat16


def test_nan_in_one_layer_is_named(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.0.mlp.down_proj.weight"][3, 2] = float("nan")
    changed(folder, tensors)
    assert "the weight model.layers.0.mlp.down_proj.weight holds NaN" in refusal(folder)


def test_an_embedding_of_another_vocabulary_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 500}))
    assert "cannot be loaded as causal-lm" in refusal(folder)


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(small: Any) -> None:
    made = small("llama")
    graph = onnx.ModelProto()
    graph.CopyFrom(made.graph)
    inputs: LanguageInputs = made.inputs
    require_vocabulary(inputs, graph)
    logits = next(item for item in graph.graph.output if item.name == "logits")
    logits.type.tensor_type.shape.dim[-1].dim_value = inputs.vocabulary - 1
    with pytest.raises(BadInput, match=r"has 300 tokens, and the model's vocabulary 299"):
        require_vocabulary(inputs, graph)


def test_a_gguf_of_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    path, kind = tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q8_K
    writer = gguf.GGUFWriter(path, "llama")
    _, size = gguf.GGML_QUANT_SIZES[kind]
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((1, size), np.uint8), raw_dtype=kind)
    for write in ("header", "kv_data"):
        getattr(writer, f"write_{write}_to_file")()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadInput, match=r"holds blk\.0\.ffn_up\.weight in Q8_K, which is not read"):
        weights_in_float32(path)


def test_mapped_weights_are_the_ones_that_the_graph_would_hold(
    folder: Path, workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {name: value.bfloat16() for name, value in load_file(folder / WEIGHTS).items()}
    changed(folder, short)
    inside = export(spec(), folder)
    monkeypatch.setenv("REQUANT_WEIGHTS_BESIDE_MIB", "0")
    use_workspace(workspace.root)
    beside = export(spec(), folder)
    assert len(list(tensors_beside(beside))) == 11
    assert len(list((workspace.root / "cache" / "weights").glob("sha256-*"))) == 11
    held = {item.name: constant_values(item) for item in beside.graph.initializer}
    for item in inside.graph.initializer:
        np.testing.assert_array_equal(held.pop(item.name), constant_values(item))
    assert not held
