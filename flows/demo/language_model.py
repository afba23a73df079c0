"""A real language model under other text, in three scenes.

SmolLM2-135M-Instruct is calibrated on English, meets Japanese, and is smoothed again. Then it is
calibrated on English with a few Japanese texts, and needs no repair.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flows.demo.language_weights import SOURCE
from flows.demo.played import (
    Played,
    action,
    as_decided,
    candidates_of,
    champion,
    health,
    unless,
    window_of,
)
from flows.demo.stage import EXAMPLES, Stage
from flows.demo.summary import perplexity_changes, perplexity_ratios
from flows.maintenance import maintenance
from flows.outcomes import Status
from infra.settings import settings
from tasks.models.catalog import open_model, register
from tasks.models.corpus import read_corpus, write_corpus
from tasks.models.golden import read_golden, write_golden
from tasks.models.inputs import language_inputs
from tasks.models.source_files import TOKENIZER
from tasks.records import Action, CaseKind, GoldenCase, Health, Request

MODEL, WITH_FLOORS = "smollm2", "smollm2-with-floors"
HOME, AWAY = "en", "ja"
READY = "model.onnx"
DOMAIN = "manual"
SERVED, POOLED, FEW, CASES = 32, 20, 4, 16
"""Chats of a day; English and Japanese texts of the pool; golden cases of each language."""
LONGEST = 400
"""Characters of a text: about as many tokens as the model reads."""
SPEC = """version: 1
name: {name}
source: {source}
task: causal-lm
input: {{max_length: 128, new_tokens: 8{tokenizer}}}
data: {{calibration: {name}.parquet}}
golden: {{cases: golden.parquet}}
budgets:
  latency_ratio: 2.0
  size_ratio: 1.0
  peak_memory_ratio: 2.0
  quality:
    - {{metric: perplexity-ratio, at_most: 1.15}}
    - {{metric: agreement, at_least: 0.7}}
window: {{sample: {served}, minimum_rows: 20}}
targets: [onnxruntime-cpu]
schedule: {{slug: nightly, cron: "0 3 * * *"}}
"""


def first_champion(stage: Stage) -> Played:
    """Register the model with English texts alone, and build a champion from English chats."""
    _register(MODEL, SOURCE, japanese=0)
    stage.serve(MODEL, _day(stage, HOME))
    outcome = maintenance(MODEL)
    problems = unless(outcome.status is Status.PROMOTED, f"{MODEL}: {outcome.reason}")
    return problems, [f"{MODEL}: {outcome.reason}", *candidates_of(outcome)]


def drift(stage: Stage) -> Played:
    """Let users write Japanese: the drift is seen, and new smoothing wins the perplexity back."""
    before = champion(MODEL)
    stage.serve(MODEL, _day(stage, AWAY))
    outcome = maintenance(MODEL)
    problems = unless(
        outcome.status is Status.PROMOTED, f"the run ended as {outcome.status}: {outcome.reason}"
    )
    problems += unless(action(outcome) is Action.RECALIBRATE, f"the decision was {action(outcome)}")
    problems += unless(
        health(outcome, "fidelity") is Health.DEGRADED, "the fidelity detector saw nothing"
    )
    recipes = [candidate.recipe for candidate in outcome.candidates]
    problems += unless(recipes[:1] == ["resmooth"], f"the candidates were {recipes}")
    rows = perplexity_changes(MODEL, window_of(outcome), before, champion(MODEL))
    problems += unless(
        all(row.after < row.before for row in rows), "the perplexity was not won back"
    )
    stage.summary += rows
    return problems, [*as_decided(stage, outcome), *candidates_of(outcome)]


def floors(stage: Stage) -> Played:
    """Put a few Japanese texts into the pool: English chats then give a champion for both."""
    _unpack(_folder() / "exported")
    _register(WITH_FLOORS, "exported", japanese=FEW)
    stage.serve(WITH_FLOORS, _day(stage, HOME))
    outcome = maintenance(WITH_FLOORS)
    problems = unless(outcome.status is Status.PROMOTED, f"{WITH_FLOORS}: {outcome.reason}")
    ratio = perplexity_ratios(WITH_FLOORS, champion(WITH_FLOORS), _day(stage, AWAY))[AWAY]
    without = max(row.before for row in stage.summary)
    problems += unless(ratio < without, "the floor did not help")
    return problems, [
        f"{WITH_FLOORS}: {outcome.reason}",
        *candidates_of(outcome),
        f"{FEW} Japanese texts in the pool, none in traffic: on Japanese chats its perplexity is "
        f"{ratio:.2f} times full precision's; that of the champion without them was {without:.2f}",
    ]


SCENES: Mapping[str, Callable[[Stage], Played]] = {
    "First champion, calibrated on English": first_champion,
    "Users write Japanese": drift,
    "A champion calibrated with floors": floors,
}


def _folder() -> Path:
    folder = settings().root / "language-model"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _register(name: str, source: str, *, japanese: int) -> None:
    """Write spec, pool and golden set, and register them."""
    folder = _folder()
    path = folder / f"{name}.yaml"
    tokenizer = "" if source == SOURCE else ", tokenizer: tokenizer.json"
    path.write_text(SPEC.format(name=name, source=source, served=SERVED, tokenizer=tokenizer))
    pool = [*_pool(HOME)[:POOLED], *_pool(AWAY)[:japanese]]
    (folder / f"{name}.parquet").write_bytes(write_corpus(pool))
    (folder / "golden.parquet").write_bytes(write_golden([*_cases(HOME), *_cases(AWAY)]))
    register(path)


def _unpack(folder: Path) -> None:
    """Write the first model's graph as a folder of its own: it is exported once."""
    folder.mkdir(exist_ok=True)
    model = open_model(MODEL)
    whole = settings().weights().inside(model.graph)
    (folder / READY).write_bytes(whole.SerializeToString())
    (folder / TOKENIZER).write_bytes(model.file(TOKENIZER))
    template = language_inputs(model.inputs).template
    if template is not None:
        (folder / "chat_template.jinja").write_text(template.source)
        (folder / "tokenizer_config.json").write_text(json.dumps(dict(template.tokens)))


def _pool(language: str) -> list[Request]:
    path = EXAMPLES / "minilm" / "calibration.parquet"
    rows = read_corpus(path.read_bytes(), where=str(path))
    return _chats([row for row in rows if row.language == language])


def _cases(language: str) -> list[GoldenCase]:
    path = EXAMPLES / "minilm" / "golden.parquet"
    cases = read_golden(path.read_bytes(), None, where=str(path)).cases
    fitting = [
        case
        for case in cases
        if case.language == language
        and case.kind in (CaseKind.PLAIN, CaseKind.PASSAGE)
        and _is_prose(case.domain, language)
    ]
    return [
        GoldenCase(case.case_id, _chat(str(case.payload)), DOMAIN, language)
        for case in fitting[:CASES]
    ]


def _day(stage: Stage, language: str) -> list[Request]:
    return _chats(stage.texts(languages=(language,)))[:SERVED]


def _chats(rows: Sequence[Request]) -> list[Request]:
    """Return chats about texts, in one domain."""
    return [
        replace(row, payload=_chat(str(row.payload)), domain=DOMAIN)
        for row in rows
        if _is_prose(row.domain, row.language)
    ]


def _is_prose(domain: str, language: str) -> bool:
    return domain == ("docs" if language == HOME else "interface")


def _chat(text: str) -> str:
    """Return a conversation whose reply is the text."""
    return f"User: What does the manual say?\nAssistant: {' '.join(text.split())[:LONGEST]}"
