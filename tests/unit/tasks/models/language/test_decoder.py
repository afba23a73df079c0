"""Any local causal language model becomes a graph with its cache outside, checked by torch."""

from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from infra.engines import open_target
from infra.errors import BadInput
from tasks.graphs.sites import find_sites
from tasks.models.export import export
from tasks.models.language.layout import read_layout
from tasks.specs.spec import InputSpec, ModelSpec, Task
from tests.language_folders import VOCABULARY
from tests.unit.tasks.models.conftest import spec

FAMILIES = {
    "llama": (
        "self_attn.{q_proj,k_proj,v_proj}",
        "self_attn.o_proj",
        "mlp.{gate_proj,up_proj}",
        "mlp.down_proj",
    ),
    "qwen2": (
        "self_attn.{q_proj,k_proj,v_proj}",
        "self_attn.o_proj",
        "mlp.{gate_proj,up_proj}",
        "mlp.down_proj",
    ),
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weighted_layer_is_a_site_under_its_modules_name(family: str, small: Any) -> None:
    names = [site.name for site in find_sites(small(family).graph)]
    assert len(names) == 2 * 4 + 1
    assert [name.split(".", 4)[-1] for name in names[:4]] == list(FAMILIES[family])
    assert names[-1].endswith("lm_head")


@pytest.mark.parametrize(("family", "tables"), [("llama", 1), ("gpt2", 1), ("qwen2", 2)])
def test_a_graph_has_the_matrices_of_its_checkpoint(family: str, tables: int, small: Any) -> None:
    made = small(family)
    stored = [
        item for item in load_file(made.folder / "model.safetensors").values() if item.ndim == 2
    ]
    constants = [
        int(np.prod(item.dims)) for item in made.graph.graph.initializer if len(item.dims) == 2
    ]
    assert sum(constants) == sum(item.numel() for item in stored)
    assert constants.count(VOCABULARY * 32) == tables


@pytest.mark.parametrize(("family", "heads"), [("llama", 2), ("qwen2", 2), ("gpt2", 4)])
def test_the_graph_tells_its_cache_and_what_ends_a_text(
    family: str, heads: int, small: Any
) -> None:
    layout = read_layout(small(family).graph)
    assert layout.layers == ((heads, 8), (heads, 8))
    assert layout.stops == (0,)


def test_a_graph_with_its_cache_is_taken_as_it_is_and_one_without_is_refused(
    small: Any, tmp_path: Any
) -> None:
    graph = small("llama").graph
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    assert read_layout(export(spec(), tmp_path)) == read_layout(graph)
    broken = type(graph)()
    broken.CopyFrom(graph)
    broken.graph.input[-1].name = "other"
    (tmp_path / "model.onnx").write_bytes(broken.SerializeToString())
    with pytest.raises(BadInput, match="no decoder with a cache"):
        export(spec(), tmp_path)


def test_a_spec_that_needs_more_positions_than_the_model_has_is_refused(small: Any) -> None:
    rules = InputSpec(tokenizer="tokenizer.json", max_length=60, new_tokens=16)
    with pytest.raises(BadInput, match="need 76 positions; the model has 64"):
        export(ModelSpec.model_construct(task=Task.CAUSAL_LM, input=rules), small("llama").folder)


def test_tensorrt_rtx_builds_prefill_and_decode_as_two_profiles(small: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    made = small("llama")
    built = open_target("tensorrt-rtx").build(made.graph.SerializeToString(), made.inputs.profile)
    assert built.plan
