"""Prefect tasks of validation: judge the engine, never only the graph (DESIGN.md, D6)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version as installed

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.canonical import Json, canonical, sha256
from infra.engines import open_target
from infra.engines.footprint import peak_memory
from infra.engines.port import Arrays, Engine
from infra.errors import NotFound, RequantError, Unavailable
from infra.settings import settings
from tasks.models.batches import Batch
from tasks.models.catalog import FULL_PRECISION, RegisteredModel, answer_golden, open_model, where_spread
from tasks.models.inputs import language_inputs
from tasks.models.language.comparison import compare
from tasks.models.spec import Task
from tasks.records import CandidateRef, EngineRef, GateReport, GateResult, Verdict
from tasks.validation.costs import Costs, Pair, cost_gates, size_gate
from tasks.validation.gates import error_gate, golden_gates, language_gates, unexecuted
from tasks.validation.language_metrics import LanguageOutputs
from tasks.validation.latency import PairedLatency, paired_latency
from tasks.validation.report import from_json, is_settled, to_json
from tasks.validation.shares import GoldenEngine, golden_outputs

LATENCY_ROUNDS = (30, 120)
"""A busy machine leaves the first rounds inconclusive; then more are taken."""


@task(name="judge-engine", cache_policy=NO_CACHE)
def judge(candidate: CandidateRef, engine: EngineRef, served: Sequence[str], thorough: bool = False) -> GateReport:
    """Golden gates on one engine; latency and memory are measured only when quality has not failed, or when thorough.

    The same engine under the same budgets is not judged twice: a run that was killed goes on where it stopped.
    """
    if not engine.executable:
        report = unexecuted(engine.target, engine.reason)
    else:
        plan = settings().store().get(candidate.key(f"engines/{engine.target}/plan"))
        known = _verdict_key(candidate, engine, plan, served, thorough)
        before = _known(known)
        report = before or _judged(candidate, engine, plan, frozenset(served), thorough)
        if before is None and is_settled(report):
            settings().store().put(known, to_json(report).encode())
    settings().store().put(candidate.key(f"golden/{engine.target}.json"), to_json(report).encode())
    return report


def _known(key: str) -> GateReport | None:
    try:
        return from_json(settings().store().get(key))
    except NotFound:
        return None


def _verdict_key(candidate: CandidateRef, engine: EngineRef, plan: bytes, served: Sequence[str], thorough: bool) -> str:
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
        "runtime": installed("onnxruntime"),
    }
    return f"verdicts/{candidate.model}/{sha256(canonical(basis))[:32]}.json"


def _judged(
    candidate: CandidateRef, engine: EngineRef, plan: bytes, served: frozenset[str], thorough: bool
) -> GateReport:
    model = open_model(candidate.model)
    try:
        loaded = open_target(engine.target).load(plan)
        named = GoldenEngine(engine.target, candidate.key(f"engines/{engine.target}/plan"), sha256(plan))
        quality = _quality(model, loaded, served, named)
        report = GateReport(engine.target, quality)
        if report.verdict in (Verdict.FAILED, Verdict.ERROR) and not thorough:
            return GateReport(engine.target, (*quality, size_gate(_size(model, engine), model.spec.budgets)))
        return GateReport(engine.target, (*quality, *_cost_gates(candidate, engine, plan, loaded)))
    except Unavailable:
        raise  # a cluster or a store that does not answer says nothing about the engine
    except RequantError as exc:
        return GateReport(engine.target, (error_gate("outputs", "all", exc),))


def _quality(
    model: RegisteredModel, loaded: Engine, served: frozenset[str], named: GoldenEngine
) -> tuple[GateResult, ...]:
    golden, budgets = model.golden, model.spec.budgets
    if model.spec.task is not Task.CAUSAL_LM:
        outputs = golden_outputs(model, named, where_spread(model.name))
        return golden_gates(model.spec.task, golden, model.golden_reference, outputs, budgets, served=served)
    inputs = language_inputs(model.inputs)
    compared = compare(model.reference, loaded, inputs, [case.payload for case in golden.cases])
    said = LanguageOutputs(compared, model.golden_answers, answer_golden(loaded, inputs, golden))
    return language_gates(golden, said, budgets, served=served)


def _cost_gates(candidate: CandidateRef, engine: EngineRef, plan: bytes, loaded: Engine) -> tuple[GateResult, ...]:
    model = open_model(candidate.model)
    feeds = typical_batch(model).feeds
    size = _size(model, engine)
    memory = Pair(_reference_memory(candidate.model), peak_memory(engine.target, plan, feeds))
    for rounds in LATENCY_ROUNDS:
        gates = cost_gates(Costs(_latency(model, loaded, feeds, rounds), size, memory), model.spec.budgets)
        if all(gate.verdict is not Verdict.INCONCLUSIVE for gate in gates):
            break
    if candidate.quantized_share > 0:
        return gates
    # The fallback to full precision is chosen because nothing cheaper is safe: its costs are reported, not judged.
    return tuple(replace(gate, binding=False) for gate in gates)


def _size(model: RegisteredModel, engine: EngineRef) -> Pair:
    return Pair(len(model.file(FULL_PRECISION)), engine.size)


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
