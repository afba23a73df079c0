"""A language model that comes as one GGUF file is the model that it was written from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from infra.engines import open_target
from infra.errors import BadInput
from tasks.models.export import export
from tasks.models.language.chat_template import parse_chat_template
from tasks.models.language.gguf_file import (
    chat_template_of,
    is_gguf,
    tokenizer_of,
    weights_in_float32,
)
from tasks.models.language.inputs import LanguageInputs, prefill_feeds
from tasks.models.language.layout import LOGITS, read_layout
from tests.gguf_files import CHATML, write_gguf
from tests.language_folders import END
from tests.unit.tasks.models.conftest import spec

TEXT = "def add(x): return x"


@pytest.fixture(scope="module")
def file(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(small("llama").folder, tmp_path_factory.mktemp("gguf") / "m.gguf")


def logits(graph: Any, inputs: LanguageInputs) -> np.ndarray:
    engine, layout = open_target("onnxruntime-cpu").load(graph.SerializeToString()), inputs.layout
    ids = np.array(inputs.encode([TEXT]))
    return np.asarray(engine.run(prefill_feeds(layout, ids, np.ones_like(ids)))[LOGITS])


def test_the_exported_graph_is_the_folders(small: Any, file: Path) -> None:
    graph = export(spec(), file)
    inputs = LanguageInputs(tokenizer_of(file), read_layout(graph), max_length=32, new_tokens=4)
    before = small("llama")
    assert inputs.encode([TEXT]) == before.inputs.encode([TEXT])
    np.testing.assert_allclose(
        logits(graph, inputs), logits(before.graph, before.inputs), atol=1e-4
    )


def test_it_brings_its_tokenizer_and_its_chat_template(file: Path) -> None:
    assert Tokenizer.from_str(tokenizer_of(file).decode()).token_to_id(END) is not None
    template = chat_template_of(file)
    assert template is not None
    assert parse_chat_template(template).source == CHATML
    assert parse_chat_template(template).tokens["eos_token"] == END


def test_quantized_weights_are_counted_in_float32(small: Any, file: Path, tmp_path: Path) -> None:
    short = write_gguf(small("llama").folder, tmp_path / "q8.gguf", quantized=True)
    assert short.stat().st_size < file.stat().st_size
    assert weights_in_float32(short) == weights_in_float32(file)


def test_what_is_no_gguf_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGML" + bytes(64))
    assert is_gguf(path)
    with pytest.raises(BadInput, match="is no readable GGUF file"):
        weights_in_float32(path)
    with pytest.raises(BadInput, match=r"put tokenizer.json beside it"):
        tokenizer_of(path)
