"""An engine on a model's golden cases: its outputs, its scores, and the gates of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from tasks.metrics.custom.trusted import metric_functions
from tasks.metrics.generated_text import METRICS
from tasks.models.catalog import RegisteredModel, answer_golden, where_spread
from tasks.models.custom.inputs import run_records
from tasks.models.decoding.comparison import compare, compare_cached
from tasks.models.inputs import language_inputs, record_inputs, run_all, speech_inputs
from tasks.models.language.inputs import LanguageInputs
from tasks.models.speech.comparison import compare_transcripts
from tasks.records import FlippedAnswers, GateResult, GoldenCase, Verdict
from tasks.specs.groups import ALL
from tasks.specs.spec import Task
from tasks.validation.gates import error_gate, golden_gates, language_gates, metric_gates
from tasks.validation.metrics.custom import (
    CustomOutputs,
    CustomScores,
    evaluate_custom,
)
from tasks.validation.metrics.flips import (
    flips_of_outputs,
    flips_of_records,
    flips_of_texts,
    flips_of_transcripts,
)
from tasks.validation.metrics.golden import CaseScores, evaluate
from tasks.validation.metrics.language import LanguageOutputs, evaluate_language
from tasks.validation.metrics.speech import SpeechOutputs, Transcript, evaluate_speech
from tasks.validation.metrics.vision import evaluate_vision
from tasks.validation.shards import GoldenEngine, golden_outputs


@dataclass(frozen=True, slots=True)
class GoldenRun:
    """An engine that is to answer the golden cases; with a name, it may do so elsewhere."""

    model: RegisteredModel
    engine: Engine
    named: GoldenEngine | None = None

    def outputs(self) -> NDArray[np.float32]:
        """Return the outputs of every golden case, in order."""
        if self.named is not None:
            return golden_outputs(self.model, self.named, where_spread(self.model.name))
        payloads = [case.payload for case in self.model.golden.cases]
        return run_all(self.engine, self.model.inputs, payloads)


@dataclass(frozen=True, slots=True)
class JudgedAnswers:
    """An engine's quality gates, and the golden cases that it answers otherwise."""

    gates: tuple[GateResult, ...]
    flips: tuple[FlippedAnswers, ...] = ()


def quality(run: GoldenRun, served: frozenset[str]) -> JudgedAnswers:
    """Judge an engine's answers; `served` are the groups of the traffic."""
    return QUALITY[run.model.spec.task](run, served)


def golden_scores(run: GoldenRun) -> Mapping[str, CaseScores]:
    """Return every golden metric of an engine, judged by nothing.

    Raises `BadInput` for outputs that cannot be scored.
    """
    return SCORES[run.model.spec.task](run)


def _judged_outputs(run: GoldenRun, served: frozenset[str]) -> JudgedAnswers:
    model, outputs = run.model, run.outputs()
    task, golden, sides = model.spec.task, model.golden, (model.golden_reference, outputs)
    gates = golden_gates(task, golden, *sides, model.spec.budgets, served=served)
    if any(gate.verdict is Verdict.ERROR for gate in gates):
        return JudgedAnswers(gates)  # outputs that cannot be scored answer nothing
    scores = evaluate(task, golden, *sides)
    return JudgedAnswers(gates, flips_of_outputs(golden, scores, sides))


def _judged_images(run: GoldenRun, served: frozenset[str]) -> JudgedAnswers:
    model, sides = run.model, (run.model.golden_reference, run.outputs())
    scores = evaluate_vision(model.golden, *sides, model.classes)
    gates = metric_gates(scores, model.golden, model.spec.budgets, served=served)
    return JudgedAnswers(gates, flips_of_outputs(model.golden, scores, sides, model.classes))


def _judged_texts(run: GoldenRun, served: frozenset[str]) -> JudgedAnswers:
    golden, outputs = run.model.golden, _answers(run)
    scores = evaluate_language(golden, outputs)
    gates = language_gates(golden, outputs, run.model.spec.budgets, served=served, scores=scores)
    return JudgedAnswers(gates, flips_of_texts(golden, scores, outputs))


def _judged_transcripts(run: GoldenRun, served: frozenset[str]) -> JudgedAnswers:
    golden, outputs = run.model.golden, _transcripts(run)
    scores = evaluate_speech(golden, outputs)
    gates = metric_gates(scores, golden, run.model.spec.budgets, served=served)
    return JudgedAnswers(gates, flips_of_transcripts(golden, scores, outputs))


def _judged_records(run: GoldenRun, served: frozenset[str]) -> JudgedAnswers:
    """Judge a custom task by the spec's metrics; one that could not be measured is an error."""
    model, outputs = run.model, _records(run)
    measured, budgets = _custom_scores(model, outputs), model.spec.budgets
    rules = tuple(rule for rule in budgets.quality if rule.metric not in measured.failures)
    errors = tuple(error_gate(name, ALL, exc) for name, exc in measured.failures.items())
    kept = budgets.model_copy(update={"quality": rules})
    gates = (*errors, *metric_gates(measured.scores, model.golden, kept, served=served))
    metrics = model.spec.metrics
    flips = flips_of_records(model.golden, measured.scores, outputs, metrics, model.charsets)
    return JudgedAnswers(gates, flips)


QUALITY: Mapping[Task, Callable[[GoldenRun, frozenset[str]], JudgedAnswers]] = {
    Task.TEXT_EMBEDDING: _judged_outputs,
    Task.IMAGE_CLASSIFICATION: _judged_outputs,
    Task.IMAGE_EMBEDDING: _judged_images,
    Task.SPEECH_RECOGNITION: _judged_transcripts,
    Task.CAUSAL_LM: _judged_texts,
    Task.CUSTOM: _judged_records,
}
"""How an engine of each kind is run on the golden cases and judged."""


def _scored_outputs(run: GoldenRun) -> Mapping[str, CaseScores]:
    model = run.model
    return evaluate(model.spec.task, model.golden, model.golden_reference, run.outputs())


def _scored_answers(run: GoldenRun) -> Mapping[str, CaseScores]:
    return evaluate_language(run.model.golden, _answers(run))


def _scored_transcripts(run: GoldenRun) -> Mapping[str, CaseScores]:
    return evaluate_speech(run.model.golden, _transcripts(run))


def _transcripts(run: GoldenRun) -> SpeechOutputs:
    model = run.model
    inputs, payloads = speech_inputs(model.inputs), [case.payload for case in model.golden.cases]
    same = compare_transcripts(model.reference, run.engine, inputs, payloads)
    sides = inputs.expected(payloads), inputs.written(run.engine, payloads)
    before, after = ([Transcript(ids, inputs.decode(ids)) for ids in side] for side in sides)
    return SpeechOutputs(same, before, after)


def _scored_images(run: GoldenRun) -> Mapping[str, CaseScores]:
    model = run.model
    return evaluate_vision(model.golden, model.golden_reference, run.outputs(), model.classes)


def _records(run: GoldenRun) -> CustomOutputs:
    model = run.model
    inputs, payloads = record_inputs(model.inputs), [case.payload for case in model.golden.cases]
    return CustomOutputs(model.golden_records, run_records(run.engine, inputs, payloads))


def _custom_scores(model: RegisteredModel, outputs: CustomOutputs) -> CustomScores:
    functions = metric_functions(model.spec.metrics)
    return evaluate_custom(model.spec.metrics, functions, model.charsets, model.golden, outputs)


def beside_itself(model: RegisteredModel) -> CustomScores | None:
    """Measure a custom task's metrics on full precision's own outputs, as if a candidate's.

    None of another task, whose metrics say the same of every model.
    """
    if model.spec.task is not Task.CUSTOM:
        return None
    return _custom_scores(model, CustomOutputs(model.golden_records, model.golden_records))


def _scored_by_metrics(run: GoldenRun) -> Mapping[str, CaseScores]:
    measured = _custom_scores(run.model, _records(run))
    for exc in measured.failures.values():
        raise exc
    return measured.scores


SCORES: Mapping[Task, Callable[[GoldenRun], Mapping[str, CaseScores]]] = {
    Task.TEXT_EMBEDDING: _scored_outputs,
    Task.IMAGE_CLASSIFICATION: _scored_outputs,
    Task.IMAGE_EMBEDDING: _scored_images,
    Task.SPEECH_RECOGNITION: _scored_transcripts,
    Task.CAUSAL_LM: _scored_answers,
    Task.CUSTOM: _scored_by_metrics,
}
"""How an engine of each kind is run on the golden cases and scored."""


def _answers(run: GoldenRun) -> LanguageOutputs:
    model, engine = run.model, run.engine
    inputs = language_inputs(model.inputs)
    texts = [taught(inputs, case) for case in model.golden.cases]
    compared = compare(model.reference, engine, inputs, texts)
    cached = compare_cached(model.reference, engine, inputs, texts)
    answers = answer_golden(engine, inputs, model.golden)
    return LanguageOutputs(compared, model.golden_answers, answers, cached)


def taught(inputs: LanguageInputs, case: GoldenCase) -> str:
    """Return the text that both models predict: a conversation with its right reply, if known."""
    knows = case.kind in METRICS and case.label is not None
    return inputs.answered(str(case.payload), case.label or "") if knows else str(case.payload)
