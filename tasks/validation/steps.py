"""The steps of validation: judge the engine, never only the graph (ADR 31)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version as installed

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.canonical import Json, canonical, sha256
from infra.engines import open_target
from infra.engines.footprint import peak_memory
from infra.engines.port import Arrays, Engine
from infra.errors import NotFound, RequantError, Unavailable
from infra.settings import settings
from infra.stores import layout
from tasks.models.batches import Batch
from tasks.models.catalog import (
    FULL_PRECISION,
    RegisteredModel,
    answer_golden,
    open_model,
    where_spread,
)
from tasks.models.inputs import language_inputs, run_all, speech_inputs
from tasks.models.language.comparison import compare, compare_cached
from tasks.models.speech.comparison import compare_transcripts
from tasks.records import CandidateRef, EngineRef, GateReport, GateResult, SampleRef, Verdict
from tasks.specs.spec import Task
from tasks.step import step
from tasks.traffic.storage.samples import read_requests
from tasks.validation import preconditions
from tasks.validation.costs import CostPair, Costs, cost_gates, size_gate
from tasks.validation.gates import (
    error_gate,
    golden_gates,
    language_gates,
    metric_gates,
    unexecuted,
)
from tasks.validation.latency import PairedLatency, paired_engines
from tasks.validation.metrics.golden import CaseScores, evaluate
from tasks.validation.metrics.language import LanguageOutputs, evaluate_language
from tasks.validation.metrics.speech import SpeechOutputs, Transcript, evaluate_speech
from tasks.validation.metrics.vision import evaluate_vision
from tasks.validation.precision import asked_for, precision_gate
from tasks.validation.preconditions import Preconditions
from tasks.validation.report import from_json, is_settled, to_json
from tasks.validation.shards import GoldenEngine, golden_outputs

LATENCY_ROUNDS = (30, 120)
"""A busy machine leaves the first rounds inconclusive; then more are taken."""
RULES = 2
"""Version of how gates bind: a verdict under others is not taken up."""


@step("examine-preconditions")
def examine(window: SampleRef) -> Preconditions:
    """What is known before the first build: what no candidate for this window could pass here, and what is unjudged."""
    model = open_model(window.model)
    why_not_here: dict[str, str | None] = {
        target: open_target(target).why_not_executable() for target in model.spec.targets
    }
    requests = read_requests(window.key)
    return preconditions.examine(
        model.spec, model.golden, model.classes, window.groups, requests, why_not_here
    )


@step("judge-engine")
def judge(
    candidate: CandidateRef, engine: EngineRef, served: Sequence[str], thorough: bool = False
) -> GateReport:
    """Golden gates on one engine; latency and memory are measured only when quality has not failed, or when thorough.

    The same engine under the same budgets is not judged twice: a run that was killed goes on where it stopped.
    """
    if not engine.executable:
        report = _unexecuted(candidate, engine)
    else:
        plan = settings().store().get(candidate.key(f"engines/{engine.target}/plan"))
        known = _verdict_key(candidate, engine, plan, served, thorough)
        before = _known(known)
        report = before or _judged(candidate, engine, plan, frozenset(served), thorough)
        if before is None and is_settled(report):
            settings().store().put(known, to_json(report).encode())
    settings().store().put(candidate.key(f"golden/{engine.target}.json"), to_json(report).encode())
    return report


def _unexecuted(candidate: CandidateRef, engine: EngineRef) -> GateReport:
    """Inconclusive; where the target can tell its kernels without a device, so is what they multiply told."""
    report = unexecuted(engine.target, engine.reason)
    return replace(
        report, gates=(*report.gates, *_precision(candidate, engine.target, None, engine.reason))
    )


def _known(key: str) -> GateReport | None:
    try:
        return from_json(settings().store().get(key))
    except NotFound:
        return None


def _verdict_key(
    candidate: CandidateRef, engine: EngineRef, plan: bytes, served: Sequence[str], thorough: bool
) -> str:
    """Everything that a verdict follows from, but the machine's mood."""
    model = open_model(candidate.model)
    basis: Mapping[str, Json] = {
        "model": model.digest,  # with its golden set
        "candidate": candidate.candidate_id,
        "target": engine.target,
        "plan": sha256(plan),
        "budgets": model.spec.budgets.model_dump(mode="json"),
        "served": sorted(served),
        "thorough": thorough,
        "rules": RULES,
        "runtime": installed("onnxruntime"),
    }
    return layout.verdict(candidate.model, sha256(canonical(basis))[:32])


def _judged(
    candidate: CandidateRef, engine: EngineRef, plan: bytes, served: frozenset[str], thorough: bool
) -> GateReport:
    model = open_model(candidate.model)
    try:
        loaded = open_target(engine.target).load(plan, _metadata(candidate, engine.target))
        inspection = loaded.inspection()
        if inspection is not None:
            settings().store().put(
                candidate.key(f"engines/{engine.target}/inspector.json"), inspection
            )
        told = _precision(
            candidate, engine.target, inspection, f"{engine.target} tells nothing of its kernels"
        )
        named = GoldenEngine(
            engine.target, candidate.key(f"engines/{engine.target}/plan"), sha256(plan)
        )
        quality = (*QUALITY[model.spec.task](GoldenRun(model, loaded, named), served), *told)
        report = GateReport(engine.target, quality)
        if report.verdict in (Verdict.FAILED, Verdict.ERROR) and not thorough:
            return GateReport(
                engine.target, (*quality, size_gate(_size(model, engine), model.spec.budgets))
            )
        return GateReport(engine.target, (*quality, *_cost_gates(candidate, engine, plan, loaded)))
    except Unavailable:
        raise  # a cluster or a store that does not answer says nothing about the engine
    except RequantError as exc:
        return GateReport(engine.target, (error_gate("outputs", "all", exc),))


def _metadata(candidate: CandidateRef, target: str) -> bytes | None:
    """Of the plan; none of a target whose plans run anywhere."""
    try:
        return settings().store().get(candidate.key(f"engines/{target}/plan.json"))
    except NotFound:
        return None


def _precision(
    candidate: CandidateRef, target: str, inspection: bytes | None, why_not: str
) -> tuple[GateResult, ...]:
    """What was asked for in INT8 or FP8 against what runs; reported."""
    store, model = settings().store(), open_model(candidate.model)
    asked = asked_for(onnx.load_from_string(store.get(candidate.key("graph.onnx"))), model.sites)
    kernels = open_target(target).kernels(
        store.get(candidate.key(f"engines/{target}/layers.json")), inspection
    )
    return precision_gate(asked, kernels, why_not)


@dataclass(frozen=True, slots=True)
class GoldenRun:
    """An engine that is to answer the golden cases; with a name, it may do so elsewhere."""

    model: RegisteredModel
    engine: Engine
    named: GoldenEngine | None = None

    def outputs(self) -> NDArray[np.float32]:
        """Of every golden case, in order."""
        if self.named is not None:
            return golden_outputs(self.model, self.named, where_spread(self.model.name))
        return run_all(
            self.engine, self.model.inputs, [case.payload for case in self.model.golden.cases]
        )


def _of_outputs(asked: GoldenRun, served: frozenset[str]) -> tuple[GateResult, ...]:
    model = asked.model
    return golden_gates(
        model.spec.task,
        model.golden,
        model.golden_reference,
        asked.outputs(),
        model.spec.budgets,
        served=served,
    )


def _of_answers(asked: GoldenRun, served: frozenset[str]) -> tuple[GateResult, ...]:
    return language_gates(asked.model.golden, _said(asked), asked.model.spec.budgets, served=served)


def _of_scores(asked: GoldenRun, served: frozenset[str]) -> tuple[GateResult, ...]:
    return metric_gates(
        golden_scores(asked), asked.model.golden, asked.model.spec.budgets, served=served
    )


QUALITY: Mapping[Task, Callable[[GoldenRun, frozenset[str]], tuple[GateResult, ...]]] = {
    Task.TEXT_EMBEDDING: _of_outputs,
    Task.IMAGE_CLASSIFICATION: _of_outputs,
    Task.IMAGE_EMBEDDING: _of_scores,
    Task.SPEECH_RECOGNITION: _of_scores,
    Task.CAUSAL_LM: _of_answers,
}
"""How an engine of each kind is run on the golden cases and judged."""


def golden_scores(asked: GoldenRun) -> Mapping[str, CaseScores]:
    """Every golden metric of an engine, judged by nothing; raises `BadInput` for outputs that cannot be scored."""
    return SCORES[asked.model.spec.task](asked)


def _scored_outputs(asked: GoldenRun) -> Mapping[str, CaseScores]:
    model = asked.model
    return evaluate(model.spec.task, model.golden, model.golden_reference, asked.outputs())


def _scored_answers(asked: GoldenRun) -> Mapping[str, CaseScores]:
    return evaluate_language(asked.model.golden, _said(asked))


def _scored_transcripts(asked: GoldenRun) -> Mapping[str, CaseScores]:
    model = asked.model
    inputs, payloads = speech_inputs(model.inputs), [case.payload for case in model.golden.cases]
    same = compare_transcripts(model.reference, asked.engine, inputs, payloads)
    sides = inputs.expected(payloads), inputs.written(asked.engine, payloads)
    before, after = ([Transcript(ids, inputs.decode(ids)) for ids in side] for side in sides)
    return evaluate_speech(model.golden, SpeechOutputs(same, before, after))


def _scored_images(asked: GoldenRun) -> Mapping[str, CaseScores]:
    return evaluate_vision(
        asked.model.golden, asked.model.golden_reference, asked.outputs(), asked.model.classes
    )


SCORES: Mapping[Task, Callable[[GoldenRun], Mapping[str, CaseScores]]] = {
    Task.TEXT_EMBEDDING: _scored_outputs,
    Task.IMAGE_CLASSIFICATION: _scored_outputs,
    Task.IMAGE_EMBEDDING: _scored_images,
    Task.SPEECH_RECOGNITION: _scored_transcripts,
    Task.CAUSAL_LM: _scored_answers,
}
"""How an engine of each kind is run on the golden cases and scored."""


def _said(asked: GoldenRun) -> LanguageOutputs:
    model, loaded = asked.model, asked.engine
    inputs = language_inputs(model.inputs)
    texts = [case.payload for case in model.golden.cases]
    compared = compare(model.reference, loaded, inputs, texts)
    cached = compare_cached(model.reference, loaded, inputs, texts)
    return LanguageOutputs(
        compared, model.golden_answers, answer_golden(loaded, inputs, model.golden), cached
    )


def _cost_gates(
    candidate: CandidateRef, engine: EngineRef, plan: bytes, loaded: Engine
) -> tuple[GateResult, ...]:
    model = open_model(candidate.model)
    feeds = typical_batch(model).feeds
    size = _size(model, engine)
    memory = CostPair(_reference_memory(candidate.model), peak_memory(engine.target, plan, feeds))
    for rounds in LATENCY_ROUNDS:
        gates = cost_gates(
            Costs(_latency(model, loaded, feeds, rounds), size, memory), model.spec.budgets
        )
        if all(gate.verdict is not Verdict.INCONCLUSIVE for gate in gates):
            break
    if candidate.quantized_share > 0:
        return gates
    # The fallback to full precision is chosen because nothing cheaper is safe: its costs are reported, not judged.
    return tuple(replace(gate, binding=False) for gate in gates)


def _size(model: RegisteredModel, engine: EngineRef) -> CostPair:
    return CostPair(len(model.file(FULL_PRECISION)), engine.size)


def _latency(model: RegisteredModel, loaded: Engine, feeds: Arrays, rounds: int) -> PairedLatency:
    return paired_engines(model.reference, loaded, feeds, rounds=rounds)


def typical_batch(model: RegisteredModel) -> Batch:
    """The golden cases' batch of median length."""
    batches = list(model.inputs.batches([case.payload for case in model.golden.cases]))
    return batches[len(batches) // 2]


@lru_cache(maxsize=8)
def _reference_memory(model_name: str) -> int:
    model = open_model(model_name)
    return peak_memory("onnxruntime-cpu", model.file(FULL_PRECISION), typical_batch(model).feeds)
