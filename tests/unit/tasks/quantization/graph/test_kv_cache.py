"""Keys and values in INT8.

The graph on both targets, its error bound, and the steps that read it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

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
    require_cache,
    scale_name,
    write_cache,
)
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.schemes import RangeRule
from tasks.quantization.recipe.targets import why_not
from tasks.specs.spec import Budgets, InputSpec, ModelSpec, QualityBudget, Task
from tests.language_folders import write_folder

MAX_LENGTH, NEW_TOKENS = 32, 8
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


def test_a_recalibration_keeps_the_steps_that_the_cache_was_stored_with(made: Made) -> None:
    sites = find_sites(made.graph)
    exposed = open_target("onnxruntime-cpu").load(expose(made.graph, sites).SerializeToString())
    derived = derive(
        made.graph, sites, watch(exposed, sites, made.inputs, TEXTS), find_recipe("int8-kv"), None
    )
    graph = write_cache(qdq.write(derived.plan), made.scales)
    again = qdq.rescale(graph, sites, derived.scales)
    steps = {item.name: item.raw_data for item in again.graph.initializer}
    for name, scale in made.scales.items():
        assert np.frombuffer(steps[scale_name(f"present.{name}")], np.float32)[0] == np.float32(
            scale
        )


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
