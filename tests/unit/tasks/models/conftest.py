"""Small language models of three families, each exported once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM

from infra.engines import open_target
from infra.engines.port import Engine
from tasks.models.export import export
from tasks.models.language.inputs import LanguageInputs
from tasks.models.language.layout import read_layout
from tasks.specs.spec import InputSpec, ModelSpec, Task
from tests.language_folders import write_folder

MAX_LENGTH, NEW_TOKENS = 32, 16
SHIPPED = "shipped"
EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "lm"


@dataclass(frozen=True)
class Small:
    """One exported model, its engine and the model of transformers that it came from."""

    folder: Path
    graph: onnx.ModelProto
    engine: Engine
    inputs: LanguageInputs
    model: Any


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Build and export a family when it is first asked for."""
    made: dict[str, Small] = {}

    def build(family: str) -> Small:
        if family not in made:
            folder = (
                EXAMPLE
                if family == SHIPPED
                else write_folder(tmp_path_factory.mktemp(family), family)
            )
            made[family] = _export(folder)
        return made[family]

    return build


def spec() -> ModelSpec:
    """Return as much of a spec as the export reads."""
    rules = InputSpec(tokenizer="tokenizer.json", max_length=MAX_LENGTH, new_tokens=NEW_TOKENS)
    return ModelSpec.model_construct(task=Task.CAUSAL_LM, input=rules)


def _export(folder: Path) -> Small:
    graph = export(spec(), folder)
    inputs = LanguageInputs(
        (folder / "tokenizer.json").read_bytes(),
        read_layout(graph),
        max_length=MAX_LENGTH,
        new_tokens=NEW_TOKENS,
    )
    engine = open_target("onnxruntime-cpu").load(graph.SerializeToString())
    model = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32
    ).eval()
    return Small(folder, graph, engine, inputs, model)
