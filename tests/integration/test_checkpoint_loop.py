"""A language model that stays a checkpoint, through the whole loop: nothing of it becomes a graph.

The random weights read some tokens in a channel of their own, which is what traffic shifts to.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from examples.rows import CorpusRow, Payload, write
from infra.identifiers import RequestId
from infra.settings import Settings
from tasks.models.golden import write_golden
from tasks.records import Action, CaseKind, GoldenCase, Request
from tests.integration.conftest import serve
from tests.language_folders import tokenizer, write_folder

WORDS = ("model", "scale", "range", "batch", "token", "cache", "layer", "graph", "drift", "gate")
SHIFTED = ("ZZ", "QQ", "ZQ", "QZ")
LOUD = 40.0
"""What the first norm makes of the channel that only the letters of SHIFTED are in."""
pytestmark = pytest.mark.timeout(400)


def sentences(words: tuple[str, ...], seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{' '.join(rng.choice(words, 12))} {seed}.{number}" for number in range(count)]


def traffic(words: tuple[str, ...], seed: int, language: str) -> list[Request]:
    from tasks.models.corpus import EPOCH

    return [
        Request(RequestId(str(n)), EPOCH, "t", "docs", language, text)
        for n, text in enumerate(sentences(words, seed, 80))
    ]


def write_checkpoint(folder: Path) -> Path:
    write_folder(folder, "llama", hidden=64)
    path = folder / "model.safetensors"
    weights = load_file(path)
    table = weights["model.embed_tokens.weight"]
    table[:, 0] = 0
    loud = {token for word in SHIFTED for token in tokenizer().encode(word).ids[1:]}
    table[sorted(loud), 0] = table.std() * 20
    for layer in range(2):
        weights[f"model.layers.{layer}.input_layernorm.weight"][0] = LOUD
    save_file(weights, path, metadata={"format": "pt"})
    pool = [
        CorpusRow(str(n), Payload(text=text), "docs", "en")
        for n, text in enumerate(sentences(WORDS, 50, 60))
    ]
    write(folder / "calibration.parquet", pool)
    cases = [
        GoldenCase(f"{language}-{n}", text, "docs", language, CaseKind.PLAIN)
        for language, words in (("en", WORDS), ("xx", SHIFTED))
        for n, text in enumerate(sentences(words, 7, 20))
    ]
    (folder / "golden.parquet").write_bytes(write_golden(cases))
    (folder / "model.yaml").write_text(yaml.safe_dump(spec()))
    return folder


def spec(**changes: object) -> dict[str, object]:
    return {
        "version": 1,
        "name": "large",
        "source": ".",
        "task": "causal-lm",
        "input": {"tokenizer": "tokenizer.json", "max_length": 48},
        "data": {"calibration": "calibration.parquet"},
        "golden": {"cases": "golden.parquet"},
        "budgets": {
            "latency_ratio": 1.0,
            "size_ratio": 0.8,
            "quality": [
                {"metric": "perplexity-ratio", "at_most": 1.1},
                {"metric": "agreement", "at_least": 0.8},
            ],
        },
        "targets": ["compressed-tensors"],
        "calibration": {"keep": r"layers\.1\.mlp\.down"},
        "schedule": {"slug": "nightly", "cron": "0 3 * * *"},
        "window": {"sample": 64, "minimum_rows": 32},
        **changes,
    }


@pytest.fixture(scope="module")
def large(loop: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    from tasks.models.catalog import register

    register(write_checkpoint(tmp_path_factory.mktemp("large")) / "model.yaml")
    serve(loop, "large", 0, traffic(WORDS, 1, "en"))
    return loop


@pytest.fixture(scope="module")
def recalibrated(large: Settings) -> dict[str, Any]:
    """Let maintenance see the same traffic again, then another; return what came of each window."""
    from flows.maintenance import maintenance

    found = {"first": maintenance("large")}
    serve(large, "large", 1, traffic(WORDS, 2, "en"))
    found["same"] = maintenance("large")
    serve(large, "large", 2, traffic(SHIFTED, 3, "xx"))
    found["other"] = maintenance("large")
    return found


def test_the_first_champion_is_judged_by_what_was_stored(
    large: Settings, recalibrated: dict[str, Any]
) -> None:
    first = recalibrated["first"]
    (report,) = first.candidates[-1].reports
    binding = {gate.metric for gate in report.gates if gate.binding}
    assert binding == {"perplexity-ratio", "agreement", "size-ratio"}
    untold = {gate.metric: gate.reason for gate in report.gates if not gate.binding}
    assert "timed where it is served" in untold["latency-ratio"]
    release = large.release("large", first.release)
    assert "graph.onnx" in release.files
    assert "model.layers.1.mlp.down_proj" in release.facts["kept_high"]
    assert len(release.weights) >= 16  # files of tensors, named in it by their digests


def test_the_same_traffic_is_kept_and_another_is_recalibrated(
    recalibrated: dict[str, Any],
) -> None:
    from flows.outcomes import Status

    assert recalibrated["same"].status is Status.KEPT, recalibrated["same"].reason
    other = recalibrated["other"]
    assert other.status is Status.PROMOTED, other.reason
    assert other.decision.action is Action.RECALIBRATE
    assert "range and fidelity degraded" in other.decision.reasons[0]
    agreed = {
        gate.group: gate.estimate.value
        for gate in other.candidates[-1].reports[0].gates
        if gate.metric == "agreement"
    }
    assert agreed["language=xx"] >= 0.8


def test_what_vllm_is_given_reads_as_it_was_judged(
    recalibrated: dict[str, Any], tmp_path: Path
) -> None:
    from flows.publishing.checkpoints import publish_vllm

    folder = Path(publish_vllm("large", str(tmp_path / "served")).where)
    read, judged = read_and_judged(folder, registered_index(recalibrated["other"]))
    assert np.allclose(read, judged, atol=2e-3)


def read_and_judged(folder: Path, index: bytes) -> tuple[list[float], Any]:
    """Return the golden texts' losses as transformers reads them, and as they were judged."""
    from transformers import AutoModelForCausalLM

    from tasks.models.catalog import open_model
    from tasks.models.inputs import language_inputs
    from tasks.validation.forms.checkpoint import CheckpointJudge

    registered = open_model("large")
    inputs = language_inputs(registered.inputs)
    texts = [str(case.payload) for case in registered.golden.cases]
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses = []
    for reading in inputs.read(texts):
        ids = torch.tensor([reading.ids])
        with torch.no_grad():
            logits = loaded(ids).logits[0, :-1]
        losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:])))
    scores = CheckpointJudge().scores(registered, "compressed-tensors", index)
    return losses, scores["loss-candidate"].values


def registered_index(outcome: Any) -> bytes:
    from infra.settings import settings

    return settings().release("large", outcome.release).file("graph.onnx")


def test_a_weight_that_was_changed_is_never_promoted_again(
    large: Settings, recalibrated: dict[str, Any]
) -> None:
    from infra.errors import RequantError
    from infra.stores import layout
    from tasks.promotion.acts.promoting import roll_back

    first = large.release("large", recalibrated["first"].release)
    others = large.release("large", recalibrated["other"].release).weights
    (name, *_) = sorted(set(first.weights) - set(others))
    store = large.store()
    before = store.get(layout.weight(name))
    store.put(layout.weight(name), before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(RequantError, match="differ from their digest"):
        roll_back("large", None, "somebody", "a try", "request-1")
    store.put(layout.weight(name), before)
    assert roll_back("large", None, "somebody", "a try", "request-2").version == "1"


def test_commands_say_which_decoder_layer_they_are_at(
    large: Settings,
    recalibrated: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from typer.testing import CliRunner

    from flows.cli.application import app
    from infra.processes import telling

    monkeypatch.setattr(telling, "EVERY", 0.0)
    monkeypatch.setitem(sys.modules, "compressed_tensors", None)  # as where it is not installed
    spec_path = write_checkpoint(tmp_path) / "model.yaml"
    for command, said in (
        (["evaluate", "large", "--version", "1"], "reading 40 texts: decoder layer 2 of 2"),
        (["model", "add", str(spec_path)], "trying decoder layer 2 of 2 by itself"),
        (["model", "add", str(spec_path)], "not usable here: compressed-tensors: writing"),
        (["doctor"], "target compressed-tensors"),
    ):
        answer = CliRunner().invoke(app, ["--workspace", str(large.root), *command])
        assert answer.exit_code == 0, answer.output
        assert said in answer.output + "".join(capfd.readouterr())


def test_no_gateway_takes_it_over(recalibrated: dict[str, Any]) -> None:
    from flows.gateway.steering.ordering import deliver
    from infra.errors import Refused

    with pytest.raises(Refused, match="which no gateway"):
        deliver("large", "1", "a try")


def test_cases_whose_answers_nobody_writes_are_told(large: Settings) -> None:
    from dataclasses import replace

    from tasks.models.catalog import open_model
    from tasks.validation.preconditions import weaknesses

    model = open_model("large")
    asking = [replace(case, kind=CaseKind.ANSWER, label="a") for case in model.golden.cases]
    golden = replace(model.golden, cases=tuple(asking))
    assert any(
        "40 golden cases ask for an answer (answer)" in said
        for said in weaknesses(model.spec, golden, None, model.pool)
    )


def test_a_checkpoint_that_was_killed_while_it_was_made_goes_on(
    large: Settings, recalibrated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.orchestration.progress import listening
    from flows.requantize import requantize
    from infra.processes import telling
    from tasks.quantization.streamed.written import WrittenCheckpoint

    own = WrittenCheckpoint.write
    written: list[int] = []

    def write(self: WrittenCheckpoint, layer: int, *rest: Any) -> None:
        if len(written) == 1:
            written.append(-1)
            raise KeyboardInterrupt
        written.append(layer)
        own(self, layer, *rest)

    said: list[str] = []
    monkeypatch.setattr(WrittenCheckpoint, "write", write)
    monkeypatch.setattr(telling, "EVERY", 0.0)
    with pytest.raises(BaseException):  # noqa: B017, PT011  # whatever Prefect makes of it
        requantize("large", recipe="int4-6-bits")
    with listening(lambda sentence, fraction: said.append(sentence)):
        outcome = requantize("large", recipe="int4-6-bits")
    assert written == [0, -1, 1, 2]  # the first layer is not made again
    assert "asking what loses most: decoder layer 2 of 2" in said
    assert "making int4-6-bits: decoder layer 2 of 2" in said
    told = " ".join(outcome.candidates[-1].diagnostics)
    mean = re.search(r"have weights in INT8, so that a weight has (\d\.\d\d) bits", told)
    assert mean, told
    assert 5 < float(mean[1]) <= 6
    assert "reading 40 texts: decoder layer 1 of 2" in said  # golden ones, by both sides


def test_a_cache_in_fp8_is_judged_as_it_is_read_and_its_ranges_are_watched(
    large: Settings, tmp_path: Path
) -> None:
    """Of random weights, FP8 leaves too little agreement: the release is refused, and stored."""
    from flows.requantize import requantize
    from tasks.layerwise.comparing import compare_payloads
    from tasks.models.catalog import open_model
    from tasks.models.checkpoints.carried import CarriedCheckpoint

    serve(large, "large", 3, traffic(SHIFTED, 4, "xx"))
    outcome = requantize("large", recipe="fp8-kv")
    index = registered_index(outcome)
    assert "keys and values of 2 attentions are cached in FP8" in outcome.candidates[0].diagnostics
    stored = CarriedCheckpoint(onnx.load_from_string(index))
    stored.write_folder(tmp_path / "served")
    read, judged = read_and_judged(tmp_path / "served", index)
    assert np.allclose(read, judged, atol=2e-3)
    assert outcome.release is not None
    sites = json.loads(large.release("large", outcome.release).file("scales.json"))["sites"]
    cached = {f"model.layers.{n}.self_attn.{of}" for n in (0, 1) for of in ("keys", "values")}
    texts = [case.payload for case in open_model("large").golden.cases[:4]]
    watched = compare_payloads(open_model("large"), stored, texts).watched
    assert cached < set(sites) == set(watched.reach)
    assert all(watched.histograms[name].total for name in cached)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"targets": ["compressed-tensors", "onnxruntime-cpu"]}, "stands alone"),
        ({"control": {"metric": "exact-match", "at_least": 0.5}}, "writes no answers"),
        ({"serving": {"delivery": {}}}, "served by vLLM or transformers"),
        ({"calibration": {"selection": "cover"}}, "write random"),
        ({"calibration": {"keep": "("}}, "no regular expression"),
        ({"calibration": {"keep": "100%"}}, "between 0% and 100%"),
        ({"targets": ["onnxruntime-cpu"]}, "calibration.keep is of the target"),
    ],
)
def test_what_needs_a_graph_is_refused_in_the_spec(changed: dict[str, object], said: str) -> None:
    from infra.errors import BadInput
    from tasks.specs.spec import parse_spec

    with pytest.raises(BadInput, match=said):
        parse_spec(json.dumps(spec(**changed)), where="the spec")
