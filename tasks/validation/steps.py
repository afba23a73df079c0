"""Prefect tasks of validation: judge the engine, never only the graph (DESIGN.md, D6)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.engines import open_target
from infra.engines.footprint import peak_memory
from infra.engines.port import Arrays, Engine
from infra.errors import RequantError
from infra.settings import settings
from tasks.models.batches import Batch
from tasks.models.catalog import FULL_PRECISION, RegisteredModel, answer_golden, open_model
from tasks.models.inputs import language_inputs, run_all
from tasks.models.language.comparison import compare
from tasks.models.spec import Task
from tasks.records import CandidateRef, EngineRef, GateReport, GateResult, Verdict
from tasks.validation.costs import Costs, Pair, cost_gates
from tasks.validation.gates import error_gate, golden_gates, language_gates, unexecuted
from tasks.validation.language_metrics import LanguageOutputs
from tasks.validation.latency import PairedLatency, paired_latency
from tasks.validation.report import to_json

LATENCY_ROUNDS = (30, 120)
"""A busy machine leaves the first rounds inconclusive; then more are taken."""


@task(name="judge-engine", cache_policy=NO_CACHE)
def judge(candidate: CandidateRef, engine: EngineRef, served: Sequence[str]) -> GateReport:
    """Golden gates on one engine; costs are measured only when quality has not failed already."""
    if not engine.executable:
        report = unexecuted(engine.target, engine.reason)
    else:
        report = _judged(candidate, engine, frozenset(served))
    settings().store().put(candidate.key(f"golden/{engine.target}.json"), to_json(report).encode())
    return report


def _judged(candidate: CandidateRef, engine: EngineRef, served: frozenset[str]) -> GateReport:
    model = open_model(candidate.model)
    plan = settings().store().get(candidate.key(f"engines/{engine.target}/plan"))
    try:
        loaded = open_target(engine.target).load(plan)
        quality = _quality(model, loaded, served)
        report = GateReport(engine.target, quality)
        if report.verdict in (Verdict.FAILED, Verdict.ERROR):
            return report
        return GateReport(engine.target, (*quality, *_cost_gates(candidate, engine, plan, loaded)))
    except RequantError as exc:
        return GateReport(engine.target, (error_gate("outputs", "all", exc),))


def _quality(model: RegisteredModel, loaded: Engine, served: frozenset[str]) -> tuple[GateResult, ...]:
    golden, budgets = model.golden, model.spec.budgets
    if model.spec.task is not Task.CAUSAL_LM:
        outputs = run_all(loaded, model.inputs, [case.payload for case in golden.cases])
        return golden_gates(model.spec.task, golden, model.golden_reference, outputs, budgets, served=served)
    inputs = language_inputs(model.inputs)
    compared = compare(model.reference, loaded, inputs, [case.payload for case in golden.cases])
    said = LanguageOutputs(compared, model.golden_answers, answer_golden(loaded, inputs, golden))
    return language_gates(golden, said, budgets, served=served)


def _cost_gates(candidate: CandidateRef, engine: EngineRef, plan: bytes, loaded: Engine) -> tuple[GateResult, ...]:
    model = open_model(candidate.model)
    feeds = typical_batch(model).feeds
    size = Pair(len(model.file(FULL_PRECISION)), engine.size)
    memory = Pair(_reference_memory(candidate.model), peak_memory(engine.target, plan, feeds))
    for rounds in LATENCY_ROUNDS:
        gates = cost_gates(Costs(_latency(model, loaded, feeds, rounds), size, memory), model.spec.budgets)
        if all(gate.verdict is not Verdict.INCONCLUSIVE for gate in gates):
            break
    if candidate.int8_share > 0:
        return gates
    # The fallback to full precision is chosen because nothing cheaper is safe: its costs are reported, not judged.
    return tuple(replace(gate, binding=False) for gate in gates)


def _latency(model: RegisteredModel, loaded: Engine, feeds: Arrays, rounds: int) -> PairedLatency:
    return paired_latency(lambda: model.reference.run(feeds), lambda: loaded.run(feeds), rounds=rounds)


def typical_batch(model: RegisteredModel) -> Batch:
    """The golden cases' batch of median length."""
    batches = list(model.inputs.batches([case.payload for case in model.golden.cases]))
    return batches[len(batches) // 2]


@lru_cache(maxsize=8)
def _reference_memory(model_name: str) -> int:
    model = open_model(model_name)
    return peak_memory("onnxruntime-cpu", model.file(FULL_PRECISION), typical_batch(model).feeds)
