"""An adapter of PEFT's over a language model or an encoder: exported as PEFT itself runs it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.engines import open_target
from infra.errors import BadInput
from tasks.models.export import export
from tasks.models.language.layout import read_layout
from tasks.models.text.adapter import laid_beside, merged
from tasks.specs.spec import InputSpec, ModelSpec, Task, load_spec
from tasks.specs.traits import TRAITS
from tests.kind_folders import write_bert
from tests.language_folders import write_adapter, write_folder

EXAMPLES = Path(__file__).resolve().parents[5] / "examples"
TOKENS = 24


def spec(task: Task = Task.CAUSAL_LM) -> ModelSpec:
    """Return as much of a spec as the export reads."""
    rules = InputSpec(tokenizer="tokenizer.json", max_length=TOKENS, new_tokens=8)
    return ModelSpec.model_construct(task=task, input=rules)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("core"), "llama")


@pytest.fixture(scope="module")
def adapter(core: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a LoRA of random weights, so that it changes what the core says."""
    return write_adapter(core, tmp_path_factory.mktemp("adapter"))


def logits_of(graph: Any, ids: torch.Tensor) -> Any:
    layout = read_layout(graph)
    engine = open_target("onnxruntime-cpu").load(graph.SerializeToString())
    cache = {
        name: np.zeros((1, heads, 0, width), np.float32)
        for place, (heads, width) in enumerate(layout.layers)
        for name in (f"past.{place}.key", f"past.{place}.value")
    }
    return engine.run(
        cache
        | {
            "input_ids": ids.numpy(),
            "attention_mask": np.ones(ids.shape, np.int64),
            "position_ids": np.arange(ids.shape[1])[None],
            "past_mask": np.ones((1, 0), np.int64),
        }
    )["logits"]


def test_the_graph_answers_as_peft_with_the_adapter_beside_the_weights(
    core: Path, adapter: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.arange(1, 21)[None]
    plain = AutoModelForCausalLM.from_pretrained(core, dtype=torch.float32).eval()
    with torch.no_grad():
        before = plain(ids).logits.numpy()
        expected = PeftModel.from_pretrained(plain, str(adapter)).eval()(ids).logits.numpy()
    found = logits_of(export(spec(), core, adapter), ids)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(before - expected).max() > 0.1, "or the adapter changes nothing"


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_what_is_tied_to_an_adapted_layer_is_not_adapted(
    layer: str, core: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    write_adapter(core, tmp_path, layer)
    adapted = laid_beside(AutoModelForCausalLM.from_pretrained(core).eval(), tmp_path)
    ids = torch.arange(1, 21)[None]
    with torch.no_grad():
        expected = adapted(ids).logits
        answered = merged(adapted)(ids).logits
    torch.testing.assert_close(answered, expected, atol=1e-3, rtol=1e-4)


def test_another_adapter_is_another_model(core: Path, adapter: Path, tmp_path: Path) -> None:
    """Registration sees other weights, which is what the loop acts on."""
    shutil.copytree(adapter, tmp_path / "other")
    path = tmp_path / "other" / "adapter_model.safetensors"
    save_file({name: 0.5 * value for name, value in load_file(path).items()}, path)
    first, second = (export(spec(), core, one) for one in (adapter, tmp_path / "other"))
    assert first.SerializeToString(deterministic=True) != second.SerializeToString(
        deterministic=True
    )


def test_a_folder_without_an_adapter_is_refused(core: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no adapter_config\.json .* save_pretrained wrote"):
        export(spec(), core, tmp_path)


def test_an_adapter_of_another_model_is_refused(core: Path, adapter: Path, tmp_path: Path) -> None:
    wider = write_folder(tmp_path / "wider", "llama", hidden=64)
    with pytest.raises(BadInput, match="does not fit this model"):
        export(spec(), wider, adapter)
    deeper = write_folder(tmp_path / "deeper", "llama", layers=3)
    with pytest.raises(BadInput, match=r"is of another model: .*layers\.2.* is missing"):
        export(spec(), deeper, adapter)


def test_what_no_weights_hold_is_refused(core: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "prompts")
    config = tmp_path / "prompts" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "PROMPT_TUNING"}))
    with pytest.raises(BadInput, match="is PROMPT_TUNING, which no weights hold"):
        export(spec(), core, tmp_path / "prompts")


def test_a_spec_says_where_an_adapter_fits(tmp_path: Path) -> None:
    shipped = (EXAMPLES / "tickets" / "model.yaml").read_text()
    path = tmp_path / "model.yaml"
    for changed, said in (
        (shipped.replace("core: polyglot", "core: tickets"), "adapter.core is this model itself"),
        (shipped.replace(", core: polyglot", ""), "fallback.to is core: say which model"),
        (
            (EXAMPLES / "digits" / "model.yaml").read_text() + "adapter: {path: here}\n",
            "adapter is taken over causal-lm and text-embedding, not over image-classification",
        ),
    ):
        path.write_text(changed)
        with pytest.raises(BadInput, match=said):
            load_spec(path)


def test_an_encoder_takes_an_adapter_too(tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import BertModel

    write_bert(tmp_path / "core", positions=TOKENS)
    rules = LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    get_peft_model(BertModel.from_pretrained(tmp_path / "core"), rules).save_pretrained(
        tmp_path / "adapter"
    )
    graph = export(spec(Task.TEXT_EMBEDDING), tmp_path / "core", tmp_path / "adapter")
    ids = torch.arange(1, 11)[None]
    model = PeftModel.from_pretrained(
        BertModel.from_pretrained(tmp_path / "core"), str(tmp_path / "adapter")
    ).eval()
    with torch.no_grad():
        mean = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)
    feeds = {"input_ids": ids.numpy(), "attention_mask": np.ones((1, 10), np.int64)}
    engine = open_target("onnxruntime-cpu").load(graph.SerializeToString())
    found = engine.run(feeds)[TRAITS[Task.TEXT_EMBEDDING].output]
    np.testing.assert_allclose(found, torch.nn.functional.normalize(mean, dim=1).numpy(), atol=1e-4)
