"""Any local Whisper folder becomes one graph, and writes what transformers writes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from infra.engines import open_target
from infra.engines.port import Engine
from infra.errors import BadInput
from tasks.graphs.sites import expose, find_sites
from tasks.metrics.error_rates import error_rate, word_error_rate
from tasks.models.corpus import read_corpus
from tasks.models.export import export
from tasks.models.inputs import open_inputs, speech_inputs
from tasks.models.speech.comparison import compare_transcripts
from tasks.models.speech.hearing import KEY, read_hearing
from tasks.models.speech.inputs import SpeechInputs
from tasks.models.speech.transcription import forced
from tasks.observation.watch import watch
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.qdq import write
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tasks.specs.spec import InputSpec, ModelSpec, Task
from tests.kind_folders import write_whisper

SHIPPED = Path(__file__).resolve().parents[5] / "examples" / "speech"


def spec(**rules: Any) -> ModelSpec:
    chosen = InputSpec(**{"tokenizer": "tokenizer.json", "new_tokens": 6, **rules})
    return ModelSpec.model_construct(name="ear", task=Task.SPEECH_RECOGNITION, input=chosen)


def waves(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.normal(0, 0.1, int(rng.integers(2000, 16000))).astype(np.float32) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def graph(folder: Path) -> onnx.ModelProto:
    return export(spec(), folder)


@pytest.fixture(scope="module")
def engine(graph: onnx.ModelProto) -> Engine:
    return open_target("onnxruntime-cpu").load(graph.SerializeToString())


@pytest.fixture(scope="module")
def inputs(folder: Path, graph: onnx.ModelProto, engine: Engine) -> SpeechInputs:
    return speech_inputs(
        open_inputs(spec(), (folder / "tokenizer.json").read_bytes(), graph, lambda: engine)
    )


def quantized(graph: onnx.ModelProto, inputs: SpeechInputs, recipe: str) -> onnx.ModelProto:
    sites = find_sites(graph)
    exposed = open_target("onnxruntime-cpu").load(expose(graph, sites).SerializeToString())
    return write(
        derive(
            graph, sites, watch(exposed, sites, inputs, waves(24)), find_recipe(recipe), None
        ).plan
    )


def test_every_weighted_layer_of_both_sides_is_a_site_under_its_modules_name(
    graph: onnx.ModelProto,
) -> None:
    names = " ".join(site.name for site in find_sites(graph))
    for part in (
        "encoder.conv1",
        "encoder.conv2",
        "self_attn.{q_proj,k_proj,v_proj}",
        "encoder_attn",
        "proj_out",
    ):
        assert part in names


def test_the_graph_tells_its_features_prompt_and_stops_and_one_without_them_is_refused(
    graph: onnx.ModelProto, tmp_path: Path
) -> None:
    hearing = read_hearing(graph)
    assert (hearing.prompt, hearing.stops, hearing.suppressed, hearing.suppressed_first) == (
        (1,),
        (0,),
        (7,),
        (0,),
    )
    assert hearing.features["feature_size"] == 16
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    assert read_hearing(export(spec(), tmp_path)) == hearing
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    onnx.helper.set_model_props(bare, {KEY: "{}"})
    (tmp_path / "model.onnx").write_bytes(bare.SerializeToString())
    with pytest.raises(
        BadInput, match=r"is no speech model: its metadata's requant.speech is damaged"
    ):
        export(spec(), tmp_path)


def test_a_transcript_is_what_transformers_writes_greedily() -> None:
    from transformers import WhisperForConditionalGeneration

    graph = export(spec(new_tokens=8), SHIPPED)
    engine = open_target("onnxruntime-cpu").load(graph.SerializeToString())
    words = (SHIPPED / "tokenizer.json").read_bytes()
    inputs = speech_inputs(open_inputs(spec(new_tokens=8), words, graph, lambda: engine))
    model = WhisperForConditionalGeneration.from_pretrained(str(SHIPPED)).eval()
    rows = read_corpus((SHIPPED / "traffic.parquet").read_bytes(), where="traffic")[:6]
    heard = [np.asarray(row.payload, np.float32) for row in rows]
    start, suppressed = inputs.hearing.prompt[0], inputs.hearing.suppressed
    wanted: list[tuple[int, ...]] = []
    for wave in heard:
        features, ids = torch.from_numpy(inputs.features([wave])), [start]
        for _ in range(inputs.new_tokens):
            with torch.no_grad():
                logits = model(
                    input_features=features, decoder_input_ids=torch.tensor([ids])
                ).logits[0, -1]
            logits[
                [*suppressed, *(inputs.hearing.suppressed_first if len(ids) == 1 else ())]
            ] = -torch.inf
            if int(logits.argmax()) in inputs.hearing.stops:
                break
            ids.append(int(logits.argmax()))
        wanted.append(tuple(ids[1:]))
    assert inputs.written(engine, heard) == inputs.expected(heard) == wanted
    assert len({len(one) for one in wanted}) > 1, "some end earlier than others"
    assert [inputs.decode(ids) for ids in wanted] == [row.label for row in rows]


def test_what_a_recording_is_read_with_does_not_depend_on_its_batch(inputs: SpeechInputs) -> None:
    heard = waves(19)
    together = {int(c): b for b in inputs.batches(heard) for c in b.cases}
    assert sorted(together) == list(range(19))
    for place, wave in enumerate(heard):
        (alone,) = inputs.batches([wave])
        row, real = int(np.flatnonzero(together[place].cases == place)[0]), together[place].mask
        assert real is not None
        ids = np.asarray(together[place].feeds["decoder_input_ids"])[row][real[row]]
        assert ids.tolist() == np.asarray(alone.feeds["decoder_input_ids"])[0].tolist()
        assert np.array_equal(
            together[place].feeds["input_features"][row], alone.feeds["input_features"][0]
        )


def test_a_short_transcript_is_followed_by_stops_that_are_not_real(inputs: SpeechInputs) -> None:
    ids, real = forced(replace(inputs.hearing, prompt=(1, 2)), [(3, 4), ()])
    assert ids.tolist() == [[1, 2, 3, 4], [1, 2, 0, 0]]
    assert real.tolist() == [[True] * 4, [True, True, False, False]]


@pytest.mark.parametrize("recipe", ["int8-max", "int8-smooth", "int8-weights"])
def test_int8_recipes_keep_most_tokens_and_tensorrt_rtx_builds_them(
    recipe: str, graph: onnx.ModelProto, inputs: SpeechInputs, engine: Engine
) -> None:
    made = quantized(graph, inputs, recipe)
    served = open_target("onnxruntime-cpu").load(lower(made, "u8").SerializeToString())
    same = compare_transcripts(engine, served, inputs, waves(24))
    assert same.mean() > 0.8
    assert compare_transcripts(engine, engine, inputs, waves(3)).tolist() == [1.0, 1.0, 1.0]
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    assert (
        open_target("tensorrt-rtx")
        .build(lower(made, "s8").SerializeToString(), inputs.profile)
        .plan
    )


def test_a_prompt_of_the_spec_begins_every_transcript(folder: Path) -> None:
    graph = export(spec(prompt=("<start>", "<en>")), folder)
    assert read_hearing(graph).prompt == (1, 2)
    with pytest.raises(
        BadInput, match=r"input.prompt names '<fr>', which is no token of tokenizer.json"
    ):
        export(spec(prompt=("<start>", "<fr>")), folder)


def test_more_tokens_than_positions_are_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match="need 61 positions; the model has 24"):
        export(spec(new_tokens=60), folder)


def test_another_length_of_sound_than_the_encoders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="chunk_length gives other than the 100 frames"):
        export(spec(), write_whisper(tmp_path, chunk_length=2))


def test_weights_that_are_missing_are_refused_rather_than_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = write_whisper(tmp_path) / "model.safetensors"
    kept = {name: one for name, one in load_file(path).items() if "conv2.weight" not in name}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"the weights lack model.encoder.conv2.weight"):
        export(spec(), tmp_path)


@pytest.mark.parametrize(
    "payload", ["a text", np.zeros((2, 3), np.float32), np.zeros(0, np.float32)]
)
def test_what_is_no_waveform_is_refused(payload: Any, inputs: SpeechInputs) -> None:
    with pytest.raises(BadInput, match="one waveform of some samples"):
        list(inputs.batches([payload]))


@pytest.mark.parametrize(
    ("right", "given", "rate"),
    [
        ("one two three four", "one two three four", 0.0),
        ("One, two!", "one two", 0.0),
        ("one two three four", "one three four", 0.25),
        ("one", "one two three", 2.0),
        ("", "one two", 2.0),
        ("", "", 0.0),
    ],
)
def test_the_word_error_rate_counts_edits_over_the_right_words(
    right: str, given: str, rate: float
) -> None:
    assert word_error_rate(right, given) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("right", "given", "rate"), [((1, 2), (1, 2), 0.0), ((12,), (1, 2), 2.0), ((1, 2), (), 1.0)]
)
def test_tokens_are_compared_whole(right: Sequence[int], given: Sequence[int], rate: float) -> None:
    assert error_rate(*([str(one) for one in side] for side in (right, given))) == rate
