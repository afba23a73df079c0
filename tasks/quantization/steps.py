"""The steps of quantization: load, call one function, store.

They take names and digests, never arrays.
"""

import time
from collections.abc import Sequence

import onnx

from infra.engines import open_target
from infra.identifiers import RunId
from infra.settings import settings
from infra.stores import layout
from infra.weights.naming import whole_size
from tasks.models.catalog import open_model
from tasks.observation.archive import dump_observation
from tasks.quantization import candidates, loading, measuring
from tasks.quantization.graph.lowering import lower
from tasks.quantization.pipeline.candidate import quantize
from tasks.quantization.pipeline.tuning import tuning_recipe
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.report.pareto import CandidateFigures, Limits
from tasks.quantization.report.runs import RunRecord, candidate_run, climb_run
from tasks.quantization.sensitivity.measure import dump_losses
from tasks.records import CandidateRef, EngineRef, ReleaseRef, SampleRef
from tasks.specs.checkpoint import CHECKPOINT
from tasks.step import run_tags, step


@step("observe-calibration-set")
def observe(calibration: SampleRef) -> str:
    """Observe a calibration set once; returns the observation's key."""
    model, store = open_model(calibration.model), settings().store()
    key = measuring.observation_key(model, calibration)
    # A checkpoint is observed while it is derived, each layer behind the quantized ones before it.
    if not model.is_checkpoint and not store.exists(key):
        store.put(key, dump_observation(measuring.observe_set(model, calibration)))
    return key


@step("measure-sensitivity")
def measure_sensitivity(
    calibration: SampleRef,
    observation: str,
    recipe_name: str,
    others: bool = False,
    champion: ReleaseRef | None = None,
) -> str:
    """Measure what each part alone costs, on some calibration cases; returns the figures' key.

    `others` adds the parts that recipes leave in floating point. Recipes that differ only in the
    sites they exclude share the figures, and so do later runs. `champion` is whose quantizers are
    measured, for recipes that keep high what drifts.
    """
    model, store = open_model(calibration.model), settings().store()
    recipe = loading.resolved(find_recipe(recipe_name), loading.graph_recipe(champion))
    key = measuring.losses_key(model, observation, recipe, champion, others=others)
    if not store.exists(key):
        of = (model, calibration, observation, recipe, champion)
        losses = measuring.losses_of_parts(*of, others=others)
        store.put(key, dump_losses(losses))
    return key


@step("write-qdq-graph")
def write_graph(
    calibration: SampleRef,
    observation: str,
    recipe_name: str,
    champion: ReleaseRef | None,
    losses: str | None = None,
    allow_scale_change: bool = False,
) -> CandidateRef:
    """Write the Q/DQ graph of a recipe, stored as a candidate: the same inputs give the same one.

    `losses` is a key from `measure_sensitivity`; without it, sites are ranked by their local
    errors. Where the champion's placement is kept, so are its measured losses, and no scale leaves
    the spec's `calibration.largest_scale_change` unless a person allowed it.
    """
    model, base = open_model(calibration.model), loading.graph_recipe(champion)
    recipe = loading.resolved(find_recipe(recipe_name), base)
    change = None if allow_scale_change else model.spec.calibration.largest_scale_change
    name = candidates.candidate_id(model, recipe, observation, champion, losses, change)
    stored = candidates.stored_candidate(model, name, recipe)
    if stored is not None:
        return stored
    if model.is_checkpoint:
        return candidates.derive_checkpoint(model, name, recipe, calibration, observation)
    loading.require_room_for(model, recipe)
    by_request = loading.watch_by_champion(model, calibration, observation, recipe, champion)
    tuning = (model.name, model.digest, observation, tuning_recipe(recipe), champion)
    limits = tuple(sorted(calibration.ceilings.items())) if recipe.keeps_placement else ()
    tuned = loading.load_tuned(*tuning, by_request, limits) if recipe.quantized else None
    evidence = loading.load_evidence(model, calibration, observation, recipe, losses)
    deployed = loading.load_champion(
        champion, model.digest if recipe.starts_from_champion else None
    )
    candidate = quantize(evidence, recipe, deployed, tuned, change)
    base = base if recipe.starts_from_champion else None
    made_of = (calibration, observation, base)
    return candidates.store_candidate(model, name, candidate, recipe, *made_of)


@step("build-engine")
def build_engine(candidate: CandidateRef, target_name: str) -> EngineRef:
    """Lower the candidate's graph for one target and compile it; a checkpoint is what it is."""
    if target_name == CHECKPOINT:
        index = settings().store().get(candidate.key("graph.onnx"))
        return EngineRef(target_name, whole_size(index), 0.0, True, "")
    target, seconds = open_target(target_name), 0.0
    reason = target.why_not_executable()
    size = candidates.stored_engine_size(candidate, target_name, target.is_current)
    if size is None:
        started = time.perf_counter()
        profile = open_model(candidate.model).inputs.profile
        graph = onnx.load_from_string(settings().store().get(candidate.key("graph.onnx")))
        built = target.build(lower(graph, target.form).SerializeToString(), profile)
        candidates.store_engine(candidate, target_name, built)
        size, seconds = whole_size(built.plan), time.perf_counter() - started
    return EngineRef(target_name, size, seconds, reason is None, reason or "")


@step("record-ladder")
def record_ladder(
    calibration: SampleRef,
    window: str,
    built: Sequence[CandidateRef],
    figures: Sequence[CandidateFigures],
    limits: Limits,
    reason: str,
) -> RunId:
    """Record one run for the climb and a child run for each candidate; returns the climb's id."""
    model, store = calibration.model, settings().store()
    climb = climb_run(model, window, calibration.digest, figures, limits, reason, run_tags(model))
    for name, data in climb.artifacts.items():
        store.put(layout.report(model, window, name), data)
    parent = _log(model, climb)
    for candidate, reached in zip(built, figures, strict=True):
        facts = candidates.load_facts(candidate.key("candidate.json")) or {}
        _log(model, candidate_run(candidate, find_recipe(reached.name), reached, facts), parent)
    return parent


def _log(model: str, run: RunRecord, parent: RunId | None = None) -> RunId:
    return (
        settings()
        .registry()
        .log_run(model, run.name, run.params, run.metrics, run.tags, run.artifacts, parent)
    )
