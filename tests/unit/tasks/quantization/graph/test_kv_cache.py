"""Keys and values in INT8.

The graph on both targets, its error bound, and the steps that read it.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from transformers import AutoModelForCausalLM

from infra.engines import open_target
from infra.engines.port import Engine
from infra.errors import BadInput, Refused
from tasks.graphs.sites import expose, find_sites
from tasks.models.decoding.comparison import compare, compare_cached
from tasks.models.decoding.generation import generate
from tasks.models.decoding.likelihood import over_cache
from tasks.models.export import export
from tasks.models.language.inputs import LanguageInputs, padded, prefill_feeds
from tasks.models.language.layout import read_layout
from tasks.observation.watch import watch
from tasks.quantization.graph import qdq
from tasks.quantization.graph.kv_cache import (
    cache_saving,
    cache_scales,
    observe_cache,
    renew_cache,
    require_cache,
    stored_scales,
    write_cache,
)
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.candidate import (
    CacheEvidence,
    CalibrationEvidence,
    Champion,
    QuantizedGraph,
    quantize,
)
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.schemes import Nearest, RangeRule
from tasks.quantization.recipe.targets import why_not
from tasks.specs.spec import Budgets, InputSpec, ModelSpec, QualityBudget, Task
from tests.language_folders import tokenizer, write_folder

MAX_LENGTH, NEW_TOKENS = 32, 8
LETTERS = [f"{word} go stale and sit on" for word in ("models", "def add", "Katze", "auf dem Dach")]
DIGITS = [f"{word} {number}" for word in ("ab", "cd") for number in ("12 345 67", "9801 3", "55 4")]
TEXTS = [
    f"{word} {number} {other}"
    for number, word in enumerate(
        ("Quantized", "models", "Die Katze", "sitzt auf", "def add", "return x")
    )
    for other in ("dem Dach, models go stale.", "x + 1", "モデル go on and on")
]
BUDGETS = Budgets(
    latency_ratio=1, size_ratio=1, quality=(QualityBudget(metric="cache-agreement", at_least=0.5),)
)


@dataclass(frozen=True)
class Made:
    """One family's full precision, and the same graph with nothing but its cache in INT8."""

    graph: onnx.ModelProto
    inputs: LanguageInputs
    reference: Engine
    scales: dict[str, float]
    cached: onnx.ModelProto

    def engine(self, graph: onnx.ModelProto) -> Engine:
        return open_target("onnxruntime-cpu").load(lower(graph, "u8").SerializeToString())


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = write_folder(tmp_path_factory.mktemp("kv"), request.param)
    rules = InputSpec(tokenizer="tokenizer.json", max_length=MAX_LENGTH, new_tokens=NEW_TOKENS)
    graph = export(ModelSpec.model_construct(task=Task.CAUSAL_LM, input=rules), folder)
    tokenizer = Path(folder / "tokenizer.json").read_bytes()
    inputs = LanguageInputs(
        tokenizer, read_layout(graph), max_length=MAX_LENGTH, new_tokens=NEW_TOKENS
    )
    reference = open_target("onnxruntime-cpu").load(graph.SerializeToString())
    scales = dict(
        cache_scales(observe_cache(reference, inputs.layout, inputs, TEXTS), RangeRule.MAX)
    )
    return Made(graph, inputs, reference, scales, write_cache(graph, scales))


def test_the_cache_comes_in_and_goes_out_in_int8_and_nothing_else_changes_its_type(
    made: Made,
) -> None:
    kinds = {
        item.name: item.type.tensor_type.elem_type
        for item in (*made.cached.graph.input, *made.cached.graph.output)
    }
    narrow = {name for name, kind in kinds.items() if kind == TensorProto.INT8}
    assert narrow == {
        f"{side}.{name}" for side in ("past", "present") for name in made.inputs.layout.names
    }
    assert read_layout(made.cached) == made.inputs.layout
    onnx.checker.check_model(made.cached)


def test_what_is_cached_is_within_half_a_step_of_full_precision(made: Made) -> None:
    ids, mask = padded(made.inputs.encode(TEXTS[:6]))
    feeds = prefill_feeds(made.inputs.layout, ids, mask)
    exact, stored = made.reference.run(feeds), made.engine(made.cached).run(feeds)
    for name, scale in made.scales.items():
        levels = stored[f"present.{name}"]
        assert levels.dtype == np.int8
        real = mask.astype(bool)[:, None, :, None]
        error = np.abs(levels.astype(np.float32) * scale - exact[f"present.{name}"]) * real
        assert error.max() <= scale / 2 * (1 + 1e-3)


def test_a_level_is_not_quantized_again_by_later_steps(made: Made) -> None:
    ids, mask = padded(made.inputs.encode(TEXTS[:4]), left=True)
    engine = made.engine(made.cached)
    read = engine.run(prefill_feeds(made.inputs.layout, ids[:, :-2], mask[:, :-2]))
    after = engine.run(
        over_cache(made.inputs.layout, read, mask[:, :-2], ids[:, -2:-1], mask[:, -2:-1])
    )
    for name in made.inputs.layout.names:
        assert np.array_equal(after[f"present.{name}"][:, :, :-1], read[f"present.{name}"])


def test_a_prefill_never_reads_the_cache_and_steps_over_it_do(made: Made) -> None:
    engine = made.engine(made.cached)
    plain = compare(made.reference, engine, made.inputs, TEXTS)
    assert plain.agreement.min() == 1.0
    assert plain.candidate_loss == pytest.approx(plain.reference_loss, abs=1e-5)
    stepped = compare_cached(made.reference, engine, made.inputs, TEXTS)
    assert stepped is not None
    drift = np.abs(stepped.candidate_loss - stepped.reference_loss)
    assert 1e-5 < drift.max() < 0.5
    assert stepped.agreement.mean() > 0.9


def test_a_broken_scale_is_seen_through_the_cache_and_by_nothing_else(made: Made) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(made.cached)
    for item in broken.graph.initializer:
        if item.name.endswith(".cache_scale"):
            item.raw_data = (np.frombuffer(item.raw_data, np.float32) * 40).tobytes()
    engine = made.engine(broken)
    assert compare(made.reference, engine, made.inputs, TEXTS).agreement.min() == 1.0
    stepped = compare_cached(made.reference, engine, made.inputs, TEXTS)
    assert stepped is not None
    assert stepped.agreement.mean() < 0.9


def test_a_cache_of_floats_has_nothing_to_be_compared(made: Made) -> None:
    assert compare_cached(made.reference, made.reference, made.inputs, TEXTS) is None


def test_texts_are_generated_over_an_int8_cache(made: Made) -> None:
    prompts = made.inputs.encode(TEXTS)
    exact, stored = (
        generate(engine, made.inputs.layout, prompts, new_tokens=NEW_TOKENS)
        for engine in (made.reference, made.engine(made.cached))
    )
    assert np.mean([one == other for one, other in zip(exact, stored, strict=True)]) > 0.5
    assert len({tuple(one) for one in stored}) > 3


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "tensorrt-rtx"])
def test_a_target_builds_int8_layers_over_an_int8_cache_with_both_profiles(
    made: Made, target: str
) -> None:
    recipe, opened = find_recipe("int8-kv"), open_target(target)
    assert why_not(recipe, target) is None
    sites = find_sites(made.graph)
    exposed = open_target("onnxruntime-cpu").load(expose(made.graph, sites).SerializeToString())
    observed = watch(exposed, sites, made.inputs, TEXTS)
    graph = write_cache(
        qdq.write(derive(made.graph, sites, observed, recipe, None).plan), made.scales
    )
    assert opened.build(lower(graph, opened.form).SerializeToString(), made.inputs.profile).plan


@dataclass(frozen=True)
class Louder:
    """A champion that saw letters alone, and what digits tell, whose keys are far larger."""

    champion: Champion
    digits: CalibrationEvidence
    inputs: LanguageInputs
    reference: Engine

    def recalibrated(self, recipe: str, largest_change: float | None) -> QuantizedGraph:
        return quantize(self.digits, find_recipe(recipe), self.champion, None, largest_change)

    def lost(self, graph: onnx.ModelProto) -> float:
        """Return the divergence of what is said after digits that are read over the cache.

        In nats a token: that much the perplexity's logarithm rises on texts of full precision's
        own. Weights are random, so that no text of ours is likelier than another.
        """
        engine = open_target("onnxruntime-cpu").load(lower(graph, "u8").SerializeToString())
        read = compare_cached(self.reference, engine, self.inputs, DIGITS)
        assert read is not None
        return float(read.divergence.mean())


@pytest.fixture(scope="module")
def louder(tmp_path_factory: pytest.TempPathFactory) -> Louder:
    folder = write_folder(tmp_path_factory.mktemp("louder"), "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[:, 0] = 0
        table[tokenizer().encode("0123456789").ids[1:], 0] = 2 * table.abs().max()
        for layer in model.model.layers:
            layer.self_attn.k_proj.weight[:, 0] *= 20
    model.save_pretrained(folder)
    rules = InputSpec(tokenizer="tokenizer.json", max_length=MAX_LENGTH, new_tokens=NEW_TOKENS)
    graph = export(ModelSpec.model_construct(task=Task.CAUSAL_LM, input=rules), folder)
    layout, sites = read_layout(graph), find_sites(graph)
    written = (folder / "tokenizer.json").read_bytes()
    inputs = LanguageInputs(written, layout, max_length=MAX_LENGTH, new_tokens=NEW_TOKENS)
    reference, exposed = (
        open_target("onnxruntime-cpu").load(item.SerializeToString())
        for item in (graph, expose(graph, sites))
    )

    def evidence(texts: list[str]) -> CalibrationEvidence:
        cache = CacheEvidence(layout, observe_cache(reference, layout, inputs, texts))
        seen = watch(exposed, sites, inputs, texts)
        return CalibrationEvidence(graph, sites, seen, keys_and_values=cache)

    made = quantize(evidence(LETTERS), replace(find_recipe("int8-kv"), rounding=Nearest()))
    champion = Champion(made.derived.scales, made.graph)
    return Louder(champion, evidence(DIGITS), inputs, reference)


@pytest.mark.parametrize("recipe", ["recalibrate", "recalibrate-mse"])
def test_a_recalibration_renews_the_steps_of_the_cache(recipe: str, louder: Louder) -> None:
    made, cache = louder.recalibrated(recipe, None), louder.digits.keys_and_values
    assert louder.champion.graph is not None
    assert cache is not None
    old, new = stored_scales(louder.champion.graph), stored_scales(made.graph)
    assert new == pytest.approx(cache_scales(cache.ranges, RangeRule.MAX))
    assert new["0.key"] > 5 * old["0.key"]
    assert louder.lost(renew_cache(made.graph, old)) > 5 * louder.lost(made.graph)
    told = next(item for item in made.derived.diagnostics if "times the champion's" in item)
    assert f"{max(new[name] / old[name] for name in new):.3g} (" in told


def test_no_window_moves_the_cache_further_than_the_sites(louder: Louder) -> None:
    made = louder.recalibrated("recalibrate", 2.0)
    assert louder.champion.graph is not None
    old, new = stored_scales(louder.champion.graph), stored_scales(made.graph)
    assert new["0.key"] == pytest.approx(2 * old["0.key"])
    assert any("the cache's 0.key (" in item for item in made.derived.diagnostics)
    with pytest.raises(BadInput, match=r"differ in the cache's 9\.key"):
        renew_cache(louder.champion.graph, {**old, "9.key": 1.0})


def test_a_cache_that_is_no_concatenation_is_refused_by_name(made: Made) -> None:
    odd = onnx.ModelProto()
    odd.CopyFrom(made.graph)
    next(node for node in odd.graph.node if node.output[0] == "present.0.key").op_type = "Max"
    with pytest.raises(BadInput, match=r"present\.0\.key is not past and new values joined"):
        write_cache(odd, made.scales)


def test_a_range_that_is_not_known_is_refused_by_tensor(made: Made) -> None:
    with pytest.raises(BadInput, match=r"the cache's 0\.key: the calibration set is empty"):
        cache_scales(
            observe_cache(made.reference, made.inputs.layout, made.inputs, []), RangeRule.MAX
        )


def test_what_a_token_takes_is_told_in_bytes(made: Made) -> None:
    values = sum(2 * heads * width for heads, width in made.inputs.layout.layers)
    assert cache_saving(made.inputs.layout).endswith(
        f"{values} bytes in INT8, where FP32 takes {4 * values}"
    )


def test_a_task_without_a_cache_and_a_spec_without_its_gate_are_refused() -> None:
    recipe, blind = find_recipe("int8-kv"), BUDGETS.model_copy(update={"quality": ()})
    require_cache(recipe, Task.CAUSAL_LM, BUDGETS)
    require_cache(find_recipe("int8-smooth"), Task.TEXT_EMBEDDING, blind)
    with pytest.raises(Refused, match="text-embedding has none"):
        require_cache(recipe, Task.TEXT_EMBEDDING, BUDGETS)
    with pytest.raises(Refused, match="no budget of the spec looks through it"):
        require_cache(recipe, Task.CAUSAL_LM, blind)
