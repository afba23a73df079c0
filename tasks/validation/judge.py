"""The verdict about one built engine, from its bytes and its model: quality first, then costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version as installed

import onnx

from infra.canonical import Json, canonical, sha256
from infra.engines import open_target
from infra.engines.footprint import peak_memory
from infra.engines.port import Arrays, Engine
from infra.errors import RequantError, Unavailable
from infra.weights.naming import whole_size
from tasks.graphs.integer_regions import marked_floats
from tasks.graphs.multiply_accumulates import layer_products, products_beside
from tasks.graphs.short_floats import shortened
from tasks.metrics.custom.trusted import source_digests
from tasks.models.batches import Batch
from tasks.models.catalog import RegisteredModel, open_model
from tasks.models.decoding.speed import paired_generation, typical_workload
from tasks.models.inputs import language_inputs
from tasks.models.source_files import FULL_PRECISION
from tasks.numerics.formats import NumberFormat
from tasks.records import CandidateRef, EngineRef, GateReport, GateResult, Verdict
from tasks.specs.traits import Task
from tasks.validation.costs import (
    CostPair,
    Costs,
    cost_gates,
    fp16_gates,
    fp16_unmeasured,
    generation_gates,
    size_gate,
)
from tasks.validation.gates import error_gate, unexecuted
from tasks.validation.golden_run import GoldenRun, quality
from tasks.validation.latency import PairedLatency, paired_engines
from tasks.validation.precision import asked_for, precision_gate
from tasks.validation.shards import GoldenEngine

LATENCY_ROUNDS = (30, 120)
"""A busy machine leaves the first rounds inconclusive; then more are taken."""
GENERATION_ROUNDS = (15, 60)
"""The same of a language model that writes."""
RULES = 7
"""Version of how gates bind and what is told of them: a verdict under others is not taken up."""


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine as it was built for a candidate."""

    candidate: CandidateRef
    ref: EngineRef
    graph: bytes  # the Q/DQ graph that it was built from
    layers: bytes  # what its target told of its layers
    plan: bytes
    metadata: bytes | None  # of the plan; None of a target whose plans run anywhere

    @property
    def named(self) -> GoldenEngine:
        """What a worker needs to load it."""
        key = self.candidate.key(f"engines/{self.ref.target}/plan")
        return GoldenEngine(self.ref.target, key, sha256(self.plan))

    def basis(self, model: RegisteredModel, served: Sequence[str], *, thorough: bool) -> str:
        """Return a digest of all that a verdict follows from, but the machine's mood."""
        basis: Mapping[str, Json] = {
            "model": model.digest,  # with its golden set
            "candidate": self.candidate.candidate_id,
            "target": self.ref.target,
            "plan": sha256(self.plan),
            "budgets": model.spec.budgets.model_dump(mode="json"),
            "served": sorted(served),
            "thorough": thorough,
            "rules": RULES,
            "functions": source_digests(model.spec.metrics),
            "runtime": installed("onnxruntime"),
        }
        return sha256(canonical(basis))[:32]


def judge_built(
    model: RegisteredModel, built: BuiltEngine, served: frozenset[str], *, thorough: bool
) -> tuple[GateReport, bytes | None]:
    """Judge an engine on the golden cases, and on its costs where its quality has not failed.

    Args:
        model: The model that it was built for.
        built: The engine.
        served: Groups of the traffic at hand.
        thorough: Measure costs whatever the quality is.

    Returns:
        The report, and what the engine told of its kernels, where it tells.

    Raises:
        Unavailable: A cluster or a store does not answer, which says nothing about the engine.
    """
    target, inspection = built.ref.target, None
    try:
        engine = open_target(target).load(built.plan, built.metadata)
        inspection = engine.inspection()
        why_not = f"{target} tells nothing of its kernels"
        answered = quality(GoldenRun(model, engine, built.named), served)
        gates = (
            *answered.gates,
            *_precision(model, built.ref.target, built.graph, built.layers, inspection, why_not),
        )
        failed = GateReport(target, gates).verdict in (
            Verdict.FAILED,
            Verdict.ERROR,
            Verdict.SUSPICIOUS,
        )
        if failed and not thorough:
            costs: tuple[GateResult, ...] = (size_gate(_size(model, built), model.spec.budgets),)
        else:
            costs = _costs(model, built, engine)
        return GateReport(target, (*gates, *costs), answered.flips), inspection
    except Unavailable:
        raise
    except RequantError as exc:
        return GateReport(target, (error_gate("outputs", "all", exc),)), inspection


def report_unexecuted(
    model: RegisteredModel, engine: EngineRef, graph: bytes, layers: bytes
) -> GateReport:
    """Return an inconclusive report on an engine that cannot run here.

    Where the target can tell its kernels without a device, it says what they multiply, too.
    """
    report = unexecuted(engine.target, engine.reason)
    precision = _precision(model, engine.target, graph, layers, None, engine.reason)
    return replace(report, gates=(*report.gates, *precision))


def typical_batch(model: RegisteredModel) -> Batch:
    """Return the golden cases' batch of median length."""
    batches = list(model.inputs.batches([case.payload for case in model.golden.cases]))
    return batches[len(batches) // 2]


def _precision(
    model: RegisteredModel,
    target: str,
    graph: bytes,
    layers: bytes,
    inspection: bytes | None,
    why_not: str,
) -> tuple[GateResult, ...]:
    """Compare what was asked for in INT8 or FP8 with what runs."""
    shapes = {name: value.shape for name, value in typical_batch(model).feeds.items()}
    macs = layer_products(model.graph, model.sites, shapes)
    written = onnx.load_from_string(graph)
    requested = asked_for(written, model.sites, macs)
    opened = open_target(target)
    kept = marked_floats(written) if opened.form == "u8" else ()
    kernels = opened.kernels(layers, inspection)
    beside = products_beside(model.graph, model.sites, shapes)
    if any(product.node not in macs for product in requested):  # counted as one each: no measure
        beside = dict.fromkeys(beside)
    least = model.spec.budgets.int8_fraction
    return precision_gate(requested, kernels, why_not, least, kept, beside)


def _costs(model: RegisteredModel, built: BuiltEngine, engine: Engine) -> tuple[GateResult, ...]:
    feeds = typical_batch(model).feeds
    target = built.ref.target
    reference = _reference(model, target)
    memory = CostPair(
        _reference_memory(model.name, _home(target)), peak_memory(target, built.plan, feeds)
    )
    size = _size(model, built)
    if model.spec.task is Task.CAUSAL_LM:
        gates = _costs_of_writing(model, reference, engine, size, memory)
    else:
        gates = _timed_costs(model, reference, engine, feeds, size, memory)
    gates += _beside_fp16(model, built, engine, memory.candidate)
    if built.candidate.quantized_share > 0:
        return gates
    # The fallback to full precision is chosen because nothing cheaper is safe: its costs are
    # reported, not judged.
    return tuple(replace(gate, binding=False) for gate in gates)


def _timed_costs(
    model: RegisteredModel,
    reference: Engine,
    engine: Engine,
    feeds: Arrays,
    size: CostPair,
    memory: CostPair,
) -> tuple[GateResult, ...]:
    gates: tuple[GateResult, ...] = ()
    for rounds in LATENCY_ROUNDS:
        latency = paired_engines(reference, engine, feeds, rounds=rounds)
        gates = cost_gates(Costs(latency, size, memory), model.spec.budgets)
        if all(gate.verdict is not Verdict.INCONCLUSIVE for gate in gates):
            break
    return gates


def _costs_of_writing(
    model: RegisteredModel, reference: Engine, engine: Engine, size: CostPair, memory: CostPair
) -> tuple[GateResult, ...]:
    """Time a language model on one prompt at a time, in at most a minute.

    A batch of texts would take minutes of a real one. Its latency is that of reading a text.
    """
    inputs = language_inputs(model.inputs)
    workload = typical_workload(inputs, [str(case.payload) for case in model.golden.cases])
    gates: tuple[GateResult, ...] = ()
    for rounds in GENERATION_ROUNDS:
        measured = paired_generation(reference, engine, inputs.layout, workload, rounds=rounds)
        latency = PairedLatency(measured.reference.prefill, measured.candidate.prefill)
        gates = (
            *cost_gates(Costs(latency, size, memory), model.spec.budgets),
            *generation_gates(measured, model.spec.budgets),
        )
        if not any(gate.binding and gate.verdict is Verdict.INCONCLUSIVE for gate in gates):
            break
    return gates


def _beside_fp16(
    model: RegisteredModel, built: BuiltEngine, engine: Engine, memory: float
) -> tuple[GateResult, ...]:
    """Compare with an FP16 engine of full precision, where the target has FP16."""
    target, budgets = built.ref.target, model.spec.budgets
    if not open_target(target).has_fp16:
        return ()
    try:
        rival = _fp16_engine(model.name, model.digest, target)
    except RequantError as exc:
        return fp16_unmeasured(str(exc), budgets)
    size, peak = CostPair(rival.size, built.ref.size), CostPair(rival.peak_memory, memory)
    # What multiplies FP16 itself is another FP16 engine, and has not to be faster than one.
    binding = bool(asked_for(onnx.load_from_string(built.graph), model.sites))
    gates: tuple[GateResult, ...] = ()
    for rounds in LATENCY_ROUNDS:
        latency = paired_engines(rival.engine, engine, typical_batch(model).feeds, rounds=rounds)
        gates = fp16_gates(Costs(latency, size, peak), budgets, binding=binding)
        if gates[0].verdict is not Verdict.INCONCLUSIVE:
            break
    return gates


@dataclass(frozen=True, slots=True, eq=False)
class Fp16Engine:
    """Full precision in FP16, on one target."""

    engine: Engine
    size: int  # bytes of its plan
    peak_memory: float  # bytes


@lru_cache(maxsize=2)
def _fp16_engine(model_name: str, digest: str, target: str) -> Fp16Engine:
    """Build and load it; it is kept for the other candidates of a run.

    `digest` is the model's: another registration, another engine.
    """
    model, opened = open_model(model_name), open_target(target)
    graph = shortened(model.graph, NumberFormat.FP16, {})
    made = opened.build(graph.SerializeToString(), model.inputs.profile)
    memory = peak_memory(target, made.plan, typical_batch(model).feeds)
    return Fp16Engine(opened.load(made.plan, made.metadata), whole_size(made.plan), memory)


def _size(model: RegisteredModel, built: BuiltEngine) -> CostPair:
    return CostPair(whole_size(model.file(FULL_PRECISION)), built.ref.size)


_CPU = "onnxruntime-cpu"


def _home(target: str) -> str:
    """Return where full precision is measured beside a target's engines: its device, or the CPU."""
    return target if open_target(target).on_device else _CPU


def _reference(model: RegisteredModel, target: str) -> Engine:
    """Return full precision where the target's engines are compared with it."""
    if open_target(target).on_device:
        return _on_device(model.name, model.digest, target)
    return model.reference


@lru_cache(maxsize=1)
def _on_device(model_name: str, digest: str, target: str) -> Engine:
    """Load full precision onto the device; `digest` is the model's."""
    return open_target(target).load(open_model(model_name).file(FULL_PRECISION))


@lru_cache(maxsize=8)
def _reference_memory(model_name: str, target: str) -> int:
    model = open_model(model_name)
    return peak_memory(target, model.file(FULL_PRECISION), typical_batch(model).feeds)
