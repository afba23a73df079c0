"""A small language model through the same loop: quantized, judged on answers, and watched."""

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from examples.rows import CorpusRow, Payload, write
from infra.errors import BadInput
from infra.settings import Settings
from infra.stores import layout
from tasks.models.golden import read_golden, write_golden
from tasks.records import CaseKind, GoldenCase, Request, SampleRef, Verdict
from tests.gguf_files import write_gguf
from tests.integration.conftest import serve
from tests.language_folders import write_folder, write_massive

HARNESS = Path(__file__).parents[1] / "harness_tasks"
pytestmark = pytest.mark.timeout(400)

WORDS = ["model", "scale", "range", "batch", "token", "cache", "layer", "graph", "drift", "gate"]
REFUSED = ["User: a\nTool: 3\nAssistant:", "Tool: 4\nAssistant: b"]
"""Conversations that the model's template refuses."""
QUALITY = [
    {"metric": "perplexity-ratio", "at_most": 1.5},
    {"metric": "agreement", "at_least": 0.3},
    {"metric": "exact-match-drop", "group": "all", "at_most": 0.9},
    {"metric": "code-drop", "group": "all", "at_most": 0.9},
    {"metric": "cache-agreement", "group": "all", "at_least": 0.3},
]


def sentences(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{seed} {number} {' '.join(rng.choice(WORDS, 5))}" for number in range(count)]


def golden_cases() -> list[GoldenCase]:
    kinds = {
        CaseKind.PLAIN: None,
        CaseKind.ANSWER: "x",
        CaseKind.SAFETY: "allowed",
        CaseKind.CODE: "True",
    }
    return [
        GoldenCase(f"{kind}-{number}", text, "docs", "en", kind, label)
        for seed, (kind, label) in enumerate(kinds.items(), 1)
        for number, text in enumerate(sentences(seed, 40 if kind is CaseKind.PLAIN else 12))
    ]


@pytest.fixture(scope="module")
def language(loop: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    from tasks.models.catalog import register

    folder = write_folder(tmp_path_factory.mktemp("language"), "llama")
    pool = [
        CorpusRow(str(n), Payload(text=text), "docs", "en")
        for n, text in enumerate(sentences(50, 80))
    ]
    write(folder / "calibration.parquet", pool)
    (folder / "golden.parquet").write_bytes(write_golden(golden_cases()))
    (folder / "model.yaml").write_text(yaml.safe_dump(_spec()))
    template = (
        "{% for turn in messages %}"
        "{% if turn.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
        "<{{ turn.role }}>{{ turn.content }}\n{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(template)
    register(folder / "model.yaml")
    refused = [replace(one, payload=chat) for one, chat in zip(traffic(1), REFUSED, strict=False)]
    serve(loop, "speaker", 0, [*traffic(60), *refused])
    return loop


def _spec() -> dict[str, object]:
    return {
        "version": 1,
        "name": "speaker",
        "source": ".",
        "task": "causal-lm",
        "input": {"tokenizer": "tokenizer.json", "max_length": 32, "new_tokens": 8},
        "data": {"calibration": "calibration.parquet"},
        "golden": {"cases": "golden.parquet"},
        "budgets": {
            "latency_ratio": 50.0,  # two tiny layers say nothing about speed
            "size_ratio": 2.0,
            "peak_memory_ratio": 5.0,
            "safety_flips": 12,
            "quality": QUALITY,
        },
        "control": {"metric": "exact-match", "at_least": 0.0},
        "targets": ["onnxruntime-cpu", "tensorrt-rtx"],
        "schedule": {"slug": "nightly", "cron": "0 3 * * *"},
        "window": {"sample": 64, "minimum_rows": 32},
    }


def traffic(seed: int) -> list[Request]:
    from tasks.models.corpus import EPOCH

    return [
        Request(str(n), EPOCH, "t", "docs", "en", text)
        for n, text in enumerate(sentences(seed, 80))
    ]


def test_a_registered_model_reads_chats_by_the_folders_own_template(language: Settings) -> None:
    from tasks.models.catalog import open_model
    from tasks.models.inputs import language_inputs

    inputs = language_inputs(open_model("speaker").inputs)
    [encoded] = inputs.read(["User: a\nAssistant: b"])
    assert inputs.decode(encoded.ids) == "<user>a\n<assistant>b\n"


def test_conversations_that_the_template_refuses_are_set_aside_at_the_door(
    language: Settings, tmp_path: Path
) -> None:
    from flows.commands.imports import take_in

    chats = ["User: c\nAssistant:", *REFUSED, "User: d"]
    rows = [
        {"request_id": f"door-{number}", "time": "2025-01-01T00:00:00Z", "text": text}
        for number, text in enumerate(chats)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    intake = take_in(str(tmp_path / "log.jsonl"), "speaker")
    [(reason, count)] = intake.reasons.items()
    assert (intake.accepted, count) == (2, 2)
    assert "the model's chat template refuses a conversation (no tools here)" in reason


def test_a_stored_one_is_left_out_of_samples_new_and_old(language: Settings) -> None:
    from tasks.models.catalog import open_model
    from tasks.sampling.digest import sample_of
    from tasks.sampling.steps import load_sample, sample_window
    from tasks.sampling.stored_samples import keep_sample, read_sample

    window = sample_window.fn("speaker")
    assert isinstance(window, SampleRef)
    assert "2 requests are left out that the model cannot read: 2 x the" in str(window.left_out)
    kept = [replace(one, payload=chat) for one, chat in zip(traffic(2), REFUSED, strict=False)]
    before = sample_of([*kept, *traffic(3)[5:]], seen=80, dropped={})
    stored = keep_sample(language.store(), layout.WINDOW, "speaker", before, "2025", "2025")
    window = load_sample.fn("speaker", stored.key)
    refusal = open_model("speaker").refusal
    requests = read_sample(language.store(), window).requests
    assert len(requests) == window.rows == 75
    assert not any(refusal(request.payload) for request in requests)


def test_a_scheduled_intake_sets_them_aside_too(language: Settings, tmp_path: Path) -> None:
    from tasks.models.catalog import open_model
    from tasks.specs.spec import Task
    from tasks.traffic.sources import Folder, Reading, take_files

    row = {"request_id": "door", "time": "2025-01-02T00:00:00Z", "text": REFUSED[0]}
    (tmp_path / "log.jsonl").write_text(json.dumps(row))
    refusal = open_model("speaker").refusal
    reading = Reading(
        "speaker", "logs", Task.CAUSAL_LM, None, None, None, settle=0, refusal=refusal
    )
    intake = take_files(language.store(), Folder(tmp_path), reading, datetime.now(UTC))
    assert (intake.accepted, intake.rejected) == (0, 1)


def test_a_language_model_is_quantized_judged_and_promoted(language: Settings) -> None:
    from flows.outcomes import Status
    from flows.requantize import requantize

    outcome = requantize("speaker", recipe="int8-smooth")
    assert outcome.status is Status.PROMOTED, outcome.reason
    assert outcome.release is not None
    release = language.release("speaker", outcome.release)
    assert {"engines/onnxruntime-cpu/plan", "engines/tensorrt-rtx/plan"} <= set(release.files)
    report = next(
        one
        for candidate in outcome.candidates
        for one in candidate.reports
        if one.target == "onnxruntime-cpu"
    )
    judged = {
        gate.metric for gate in report.gates if gate.binding and gate.verdict is Verdict.PASSED
    }
    assert judged >= {
        "perplexity-ratio",
        "agreement",
        "exact-match-drop",
        "code-drop",
        "safety-flips",
    }
    assert any(gate.metric == "kl" and not gate.binding for gate in report.gates)


def test_maintenance_watches_its_ranges_and_its_agreement(language: Settings) -> None:
    from flows.maintenance import maintenance

    refused = replace(traffic(1)[0], payload=REFUSED[0])
    serve(language, "speaker", 1, [*traffic(70), refused])
    outcome = maintenance("speaker")
    assert outcome.decision is not None
    results = {one.detector: one for one in outcome.decision.results}
    assert {"input", "range", "fidelity", "control"} <= set(results)
    assert "agreement to full precision is" in results["fidelity"].findings[0].text
    assert results["range"].count == results["fidelity"].count > 0
    assert "1 request is left out that the model cannot read" in outcome.decision.reasons[-1]


def test_its_most_sensitive_site_stays_high_by_losses_measured_token_by_token(
    language: Settings,
) -> None:
    from flows.requantize import requantize

    serve(language, "speaker", 3, [replace(one, domain="docs") for one in traffic(80)])
    outcome = requantize("speaker", recipe="int8-mixed-1")
    assert outcome.release is not None, outcome.reason
    facts = language.release("speaker", outcome.release).facts
    losses = {row["site"]: row["loss"] for row in facts["sensitivity"]}
    assert all(loss is not None and loss >= 0 for loss in losses.values())
    assert len(facts["kept_high"]) == 1


@pytest.mark.parametrize(("day", "recipe"), [(5, "int8-kv"), (6, "recalibrate")])
def test_an_int8_cache_is_judged_through_the_cache(
    language: Settings, day: int, recipe: str
) -> None:
    from flows.requantize import requantize

    serve(language, "speaker", day, [replace(one, domain="docs") for one in traffic(85 + day)])
    outcome = requantize("speaker", recipe=recipe)
    (candidate,) = outcome.candidates
    report = next(one for one in candidate.reports if one.target == "onnxruntime-cpu")
    gates = {gate.metric: gate for gate in report.gates if gate.group == "all"}
    assert gates["cache-agreement"].binding
    assert gates["cache-agreement"].estimate is not None
    assert gates["cache-agreement"].verdict is Verdict.PASSED, gates["cache-agreement"].reason
    renewed = "the cache's 4 scales are" if recipe == "recalibrate" else "the cache holds"
    assert any(renewed in diagnostic for diagnostic in candidate.diagnostics)


def test_a_folder_that_is_no_language_model_is_refused(tmp_path: Path, language: Settings) -> None:
    from infra.errors import BadInput
    from tasks.models.catalog import register

    write(tmp_path / "calibration.parquet", [CorpusRow("1", Payload(text="a"), "docs", "en")])
    (tmp_path / "golden.parquet").write_bytes(write_golden(golden_cases()))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(_spec()))
    with pytest.raises(BadInput, match="cannot be loaded as causal-lm"):
        register(tmp_path / "model.yaml")


def test_a_suite_is_run_on_the_champion_and_on_full_precision_and_logged(
    language: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.evaluate import evaluate

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(HARNESS)
    golden = evaluate("speaker")
    told = {one.metric: one for one in golden.figures if one.group == "all"}
    assert golden.subject.startswith("version ")
    assert told["agreement"].full_precision == 1.0 > told["agreement"].candidate > 0.3
    assert told["perplexity"].candidate / told["perplexity"].full_precision == pytest.approx(
        told["perplexity-ratio"].candidate, rel=1e-6
    )
    found = evaluate("speaker", suite="lm-eval:requant_words", include=HARNESS, limit=4)
    words = {one.metric: one for one in found.figures}["word_perplexity"]
    assert 0 < abs(words.difference) < 0.5 * words.full_precision, (
        "INT8 is not full precision, and near it"
    )
    document = json.loads(language.registry().artifact(found.run, "evaluation.json"))
    assert document["figures"][0]["candidate"] == words.candidate


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"suite": "glue"}, "no suite is called 'glue': allowed are golden and lm-eval:TASK"),
        ({"suite": "lm-eval:"}, "no suite is called"),
        ({"limit": 3}, "belong to lm-eval suites"),
        ({"suite": "lm-eval:x", "limit": 0}, "give at least 1 case"),
        ({"suite": "lm-eval:x", "include": Path("/nowhere")}, "is no folder"),
        ({"version": "1", "candidate": "2"}, "not both"),
        ({"candidate": "zz"}, "0 candidates of speaker begin with 'zz': give one of"),
        ({"version": "999"}, "999"),
    ],
)
def test_an_evaluation_that_cannot_be_run_is_refused_in_one_sentence(
    language: Settings, asked: dict[str, Any], error: str
) -> None:
    from flows.evaluate import evaluate
    from infra.errors import RequantError

    with pytest.raises(RequantError, match=error):
        evaluate("speaker", **asked)


def test_a_candidate_is_evaluated_by_the_beginning_of_its_id(language: Settings) -> None:
    """One that was built and judged but not released: a release takes its candidate's place."""
    from flows.evaluate import find_subject
    from tasks.models.catalog import open_model
    from tasks.quantization.steps import build_engine, write_graph

    store = language.store()
    stored = next(key for key in store.list("calibration/speaker/") if key.endswith(".parquet"))
    calibration = SampleRef(**json.loads(store.get(stored.replace(".parquet", ".json"))))
    made = write_graph.fn(
        calibration, next(iter(store.list("observations/speaker/"))), "int8-max", None
    )
    build_engine.fn(made, "onnxruntime-cpu")
    found = find_subject(open_model("speaker"), None, made.candidate_id[:10])
    assert found.name == f"candidate {made.candidate_id[:12]}"
    assert found.plan == store.get(made.key("engines/onnxruntime-cpu/plan"))


def test_golden_cases_are_proposed_from_traffic(language: Settings) -> None:
    from flows.commands.proposals import propose_cases
    from tasks.models.catalog import answer_golden, open_model

    opened = open_model("speaker")
    have = len(opened.golden.cases)
    proposal = propose_cases("speaker", have + 5)
    new = proposal.cases[have:]
    assert proposal.cases[:have] == opened.golden.cases
    assert proposal.added == {("docs", "en"): 5}
    assert not {case.payload for case in new} & {row.payload for row in opened.pool}
    assert {case.kind for case in new} == {CaseKind.ANSWER}
    golden = replace(opened.golden, cases=new)
    answers = answer_golden(opened.reference, opened.inputs, golden)
    assert [case.label for case in new] == list(answers.values())
    assert read_golden(proposal.file, None, where="it").cases == proposal.cases
    with pytest.raises(BadInput, match="is of a named domain and language with fewer than 1 cases"):
        propose_cases("speaker", 1)


def test_a_gguf_file_is_all_that_a_language_model_needs(language: Settings, tmp_path: Path) -> None:
    from tasks.models.catalog import open_model, register, spec_folder
    from tasks.models.inputs import language_inputs

    (tmp_path / "folder").mkdir()
    folder = write_folder(tmp_path / "folder", "llama")
    write_gguf(folder, tmp_path / "small.gguf")
    for name in ("calibration.parquet", "golden.parquet"):
        shutil.copy(spec_folder("speaker") / name, tmp_path)
    described = {**_spec(), "name": "gguf", "source": "small.gguf", "targets": ["onnxruntime-cpu"]}
    described["input"] = {"max_length": 32, "new_tokens": 8}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(described))
    register(tmp_path / "model.yaml")
    inputs = language_inputs(open_model("gguf").inputs)
    [encoded] = inputs.read(["User: a\nAssistant: b"])
    assert inputs.decode(encoded.ids).startswith("<user>a")


def test_a_model_behind_a_prefix_goes_through_the_loop(language: Settings, tmp_path: Path) -> None:
    from flows.queries.added_model import describe
    from flows.requantize import requantize
    from tasks.models.catalog import register, spec_folder

    write_massive(tmp_path, "llama", 0)  # the tokenizer begins texts with it
    for name in ("calibration.parquet", "golden.parquet"):
        shutil.copy(spec_folder("speaker") / name, tmp_path)
    described = {**_spec(), "name": "prefixed"}
    described["input"] = {**described["input"], "prefix": True}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(described))
    added = describe(register(tmp_path / "model.yaml"), lambda *_: None)
    (told,) = (item for item in added.sentences if "before every text" in item)
    assert re.match(r"changed: '<end>' stands? before every text, as keys and values", told), told
    serve(language, "prefixed", 0, traffic(60))
    outcome = requantize("prefixed", recipe="int8-smooth")
    assert outcome.status == "promoted", outcome.reason
