"""Massive tokens stand before every text, as keys and values in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, MistralConfig

from infra.engines import open_target
from infra.errors import BadInput
from tasks.models.decoding.likelihood import over_cache
from tasks.models.export import export
from tasks.models.language.inputs import prefill_feeds
from tasks.models.language.layout import FoundPrefix, prefix_of, read_layout
from tasks.models.language.prefix import PrefixTexts, find_prefix, require_harmless
from tasks.quantization.graph.kv_cache import write_cache
from tasks.specs.spec import Budgets, QualityBudget, parse_spec
from tests.language_folders import write_folder, write_massive
from tests.unit.tasks.models.conftest import spec
from tests.unit.tasks.models.language.test_windows import write as write_windowed

FIRST, MASSIVE = 3, 7
RANDOM = np.random.default_rng(0)
ROWS = [[*RANDOM.integers(8, 96, 10).tolist(), MASSIVE, *range(20, 29)] for _ in range(4)]
TEXTS = PrefixTexts(ROWS, FIRST)


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Export a family behind its prefix, when it is first asked for."""
    made: dict[str, tuple[onnx.ModelProto, Path]] = {}

    def build(family: str, layers: int = 2) -> tuple[onnx.ModelProto, Path]:
        if family not in made:
            folder = write_massive(tmp_path_factory.mktemp(family), family, MASSIVE, layers=layers)
            made[family] = export(spec(), folder, None, TEXTS), folder
        return made[family]

    return build


def expected(folder: Path, prefix: tuple[int, ...], ids: np.ndarray) -> np.ndarray:
    """Ask the untouched model, with the prefix as tokens of the text."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = np.tile(np.asarray(prefix, np.int64), (len(ids), 1))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(np.concatenate([before, ids], 1))).logits
    return logits[:, len(prefix) :].numpy()


@pytest.mark.parametrize(("family", "layers"), [("qwen2", 6), ("llama", 2), ("gpt2", 2)])
def test_the_graph_is_the_model_behind_these_tokens(
    family: str, layers: int, prefixed: Any
) -> None:
    graph, folder = prefixed(family, layers)
    from_template = any(".layer." in node.name for node in graph.graph.node)
    assert from_template == (layers == 6)
    found = prefix_of(graph)
    assert found is not None
    assert found.tokens == (MASSIVE,)
    ids, layout = np.asarray(ROWS), read_layout(graph)
    engine = open_target("onnxruntime-cpu").load(graph.SerializeToString())
    ones = np.ones_like(ids)
    start = engine.run(prefill_feeds(layout, ids[:, :12], ones[:, :12]))
    assert start["present.0.key"].shape[2] == 12  # the caller's cache does not hold the prefix
    rest = engine.run(over_cache(layout, start, ones[:, :12], ids[:, 12:], ones[:, 12:]))
    logits = np.concatenate([start["logits"], rest["logits"]], 1)
    answers = expected(folder, found.tokens, ids)
    np.testing.assert_allclose(logits, answers, atol=1e-4 * np.abs(answers).max())


def test_what_it_does_to_full_precision_is_measured(prefixed: Any) -> None:
    graph, folder = prefixed("llama")
    found = prefix_of(graph)
    assert found is not None
    ids = np.asarray(ROWS)
    plain, behind = (expected(folder, before, ids) for before in ((), found.tokens))
    losses = [
        float(
            torch.nn.functional.cross_entropy(
                torch.tensor(logits[:, :-1]).flatten(0, 1), torch.tensor(ids[:, 1:]).flatten()
            )
        )
        for logits in (plain, behind)
    ]
    assert found.perplexity == pytest.approx(np.exp(losses[1] - losses[0]), rel=1e-4)
    assert found.agreement == pytest.approx((plain.argmax(-1) == behind.argmax(-1)).mean())


@pytest.mark.parametrize(
    ("bound", "refused"),
    [
        ({"metric": "perplexity-ratio", "at_most": 1.05}, "perplexity-ratio 1.080"),
        ({"metric": "perplexity-ratio", "at_most": 1.05, "group": "language=ja"}, None),
        ({"metric": "perplexity-ratio", "at_most": 1.1}, None),
        ({"metric": "agreement", "at_least": 0.9}, "agreement 0.850"),
        ({"metric": "agreement", "at_least": 0.8}, None),
    ],
)
def test_a_prefix_that_costs_more_than_a_candidate_may_is_refused(
    bound: Mapping[str, Any], refused: str | None
) -> None:
    found = FoundPrefix((MASSIVE,), 1.08, 0.85)
    budgets = Budgets(latency_ratio=1.0, size_ratio=1.0, quality=[QualityBudget(**bound)])
    if refused is None:
        require_harmless(found, budgets)
        return
    with pytest.raises(BadInput, match=f"{refused}.*leave input.prefix out"):
        require_harmless(found, budgets)


def test_a_cache_in_int8_is_written_behind_a_prefix(prefixed: Any) -> None:
    graph, _ = prefixed("llama")
    scales = dict.fromkeys(read_layout(graph).names, 0.1)
    written = write_cache(graph, scales)
    onnx.checker.check_model(written, full_check=True)
    open_target("onnxruntime-cpu").load(written.SerializeToString())


def test_without_a_massive_token_nothing_stands_before(tmp_path: Path) -> None:
    graph = export(spec(), write_folder(tmp_path, "llama"), None, TEXTS)
    assert prefix_of(graph) is None
    assert not any(item.name.startswith("prefix.") for item in graph.graph.initializer)


@pytest.mark.parametrize(
    ("rows", "first", "tokens"),
    [
        (ROWS, FIRST, (MASSIVE,)),
        ([[MASSIVE, *row] for row in ROWS], FIRST, (FIRST, MASSIVE)),
        ([[MASSIVE, *row] for row in ROWS], MASSIVE, (MASSIVE,)),
        ([[MASSIVE, *row[:9]] for row in ROWS], FIRST, (FIRST,)),
        ([[MASSIVE, *row[:9]] for row in ROWS], None, (MASSIVE,)),
    ],
)
def test_the_prefix_begins_as_texts_do_where_their_beginning_is_massive(
    rows: list[list[int]], first: int | None, tokens: tuple[int, ...], prefixed: Any
) -> None:
    _, folder = prefixed("llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = find_prefix(model, PrefixTexts(rows, first))
    assert found is not None
    assert found.tokens == tokens


def test_a_window_that_forgets_it_is_refused(tmp_path: Path) -> None:
    sizes: Mapping[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    folder = write_windowed(tmp_path, MistralConfig(**sizes, sliding_window=8))
    with pytest.raises(BadInput, match=r"input\.prefix: a window of 8 tokens forgets"):
        export(spec(), folder, None, TEXTS)


def test_positions_for_it_have_to_be_there(tmp_path: Path) -> None:
    folder = write_massive(tmp_path, "llama", MASSIVE)
    narrow = spec()
    rules = narrow.input.model_copy(update={"max_length": 64 - narrow.input.new_tokens})
    with pytest.raises(BadInput, match=r"a prefix of 1 need 65 positions; the model has 64"):
        export(narrow.model_copy(update={"input": rules}), folder, None, TEXTS)


def test_a_graph_takes_no_prefix(prefixed: Any, tmp_path: Path) -> None:
    graph, _ = prefixed("llama")
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(BadInput, match=r"input\.prefix: .*model\.onnx is a graph already"):
        export(spec(), tmp_path, None, TEXTS)


SPEC = """
version: 1
name: chat
source: .
task: {task}
input: {{tokenizer: tokenizer.json, max_length: 32, prefix: true}}
data: {{calibration: pool.parquet}}
golden: {{cases: golden.parquet}}
budgets:
  latency_ratio: 1.0
  size_ratio: 0.8
  quality: [{{metric: {metric}, at_most: 1.05}}]
targets: [{target}]
schedule: {{slug: nightly, cron: "0 3 * * *"}}
"""


@pytest.mark.parametrize(
    ("task", "metric", "target", "sentence"),
    [
        ("text-embedding", "safety-flips", "onnxruntime-cpu", "input.prefix is of causal-lm"),
        (
            "causal-lm",
            "perplexity-ratio",
            "compressed-tensors",
            "input.prefix: its keys and values are in a graph",
        ),
    ],
)
def test_a_spec_that_has_no_place_for_it_is_refused(
    task: str, metric: str, target: str, sentence: str
) -> None:
    text = SPEC.format(task=task, metric=metric, target=target)
    with pytest.raises((BadInput, ValidationError), match=sentence):
        parse_spec(text, where="model.yaml")
